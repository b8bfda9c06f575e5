"""A local server with the part of the Hugging Face Hub's HTTP interface that vdm.hub uses."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import yaml

TOKEN = "hf_secret"
# In URLs of repositories and commits, as of a mirror: older versions of huggingface_hub take no
# other host than that of HF_ENDPOINT at their import.
SITE = "https://huggingface.co"


@dataclasses.dataclass
class Repository:
    """One repository: whether it is private or gated, its commits, and its branches."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Adds files to a branch; returns the id of the commit."""
        files = self.commits.get(self.branches.get(branch, ""), {}) | files
        digest = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[digest], self.branches[branch] = files, digest
        return digest


class HubServer(ThreadingHTTPServer):
    """The server.

    Attributes:
      repositories: by 'OWNER/NAME'.
      requests: 'METHOD PATH' of each request.
      status: of all answers, if it is not 0.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.status = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serve() -> Iterator[HubServer]:
    """Serves a Hub without repositories on a free port."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Error(Exception):
    """An answer with a status and the Hub's code of the error."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *args: object) -> None:
        """Prints nothing."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append(f"{self.command} {path}")
        try:
            if self.server.status:
                raise _Error(self.server.status, "")
            if match := re.fullmatch(r"/(\w+/\w+)/resolve/(.+)/([\w.]+)", path):
                self._file(*match.groups())
            elif self.command == "POST":
                self._answer(json.dumps(self._post(path, body)).encode())
            else:
                name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
                repository = self._repository(name)
                self._answer(json.dumps({"id": name, "private": repository.private}).encode())
        except _Error as error:
            status, code = error.args
            content = {"error": code, "url": f"{SITE}/owner/name"}
            headers = {"X-Error-Code": code} if code else {}
            self._answer(json.dumps(content).encode(), status, headers)

    def _post(self, path: str, body: bytes) -> dict:
        if path == "/api/validate-yaml":
            page = json.loads(body)["content"]
            yaml.safe_load(page.split("---\n")[1])
            return {"errors": [], "warnings": []}
        if self._token() != TOKEN:
            raise _Error(401 if self._token() is None else 403, "")
        if path == "/api/repos/create":
            fields = json.loads(body)
            name = f"{fields['organization']}/{fields['name']}"
            if name in self.server.repositories:
                raise _Error(409, "")
            private = fields.get("private") or fields.get("visibility") == "private"
            self.server.repositories[name] = repository = Repository(private=bool(private))
            repository.commit("main", {".gitattributes": b""})
            return {"url": f"{SITE}/{name}"}
        name, verb, branch = re.fullmatch(r"/api/models/(\w+/\w+)/(\w+)/(.+)", path).groups()
        repository = self._repository(name)
        if verb == "branch":
            if branch in repository.branches:
                raise _Error(409, "")
            repository.branches[branch] = repository.branches["main"]
            return {}
        if branch not in repository.branches:
            raise _Error(404, "RevisionNotFound")
        if verb == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": path, **modes} for path in paths]}
        assert verb == "commit", path
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[0]["key"] == "header" and lines[0]["value"]["summary"]
        files = [line["value"] for line in lines if line["key"] == "file"]
        assert len(files) == len(lines) - 1
        digest = repository.commit(
            branch, {file["path"]: base64.b64decode(file["content"]) for file in files}
        )
        url = f"{SITE}/{name}/commit/{digest}"
        return {"success": True, "commitOid": digest, "commitUrl": url}

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository.gated:
            raise _Error(403, "GatedRepo")
        digest = repository.branches.get(revision, revision)
        if digest not in repository.commits:
            raise _Error(404, "RevisionNotFound")
        if path not in repository.commits[digest]:
            raise _Error(404, "EntryNotFound")
        content = repository.commits[digest][path]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(content, headers={"X-Repo-Commit": digest, "ETag": etag})

    def _repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and self._token() != TOKEN):
            raise _Error(404 if self._token() else 401, "RepoNotFound")
        return found

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").partition("Bearer ")[2] or None

    def _answer(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
