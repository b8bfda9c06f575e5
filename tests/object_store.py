"""An emulated Google Cloud Storage on a free port."""

import contextlib
import functools
import re
import threading
from collections.abc import Iterator
from http.server import HTTPServer
from urllib.parse import parse_qs, unquote, urlparse

import pytest

pytest.importorskip("gcsfs", reason="needs gcsfs, of the extra 'gcs'")
pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator, for tests")

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

_OBJECT = re.compile(r".*/b/(?P<bucket>[^/]+)/o(?:/(?P<name>[^/]+))?")


@contextlib.contextmanager
def bucket(name: str) -> Iterator[dict[str, str]]:
    """Serves an empty bucket; yields the environment with which a process finds it."""
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(name, storage)
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, storage))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(HTTPServer):
    def handle_error(self, request, client_address):
        """Says nothing: the client of a killed process does not wait for its answer."""


class _Handler(RequestHandler):
    """Adds what TensorStore needs and the emulator lacks: generations, and conditions on them."""

    def parse_request(self) -> bool:
        """Returns whether to serve a request, after answering it if its condition is false."""
        if not super().parse_request():
            return False
        self._generation = self._current_generation()
        expected = self._query().get("ifGenerationMatch", [self._generation])
        if expected == [self._generation]:
            return True
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(412)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def end_headers(self):
        if self.command == "GET" and self._query().get("alt") == ["media"]:
            self.send_header("x-goog-generation", self._generation)
        super().end_headers()

    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlparse(self.path).query)

    def _current_generation(self) -> str:
        """Returns the generation of the request's object, 0 if there is none."""
        match = _OBJECT.fullmatch(urlparse(self.path).path)
        if match is None:
            return "0"
        name = match["name"] or self._query().get("name", [""])[0]
        try:
            return str(self.storage.get_file_obj(match["bucket"], unquote(name))["generation"])
        except NotFound:
            return "0"
