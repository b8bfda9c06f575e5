"""Models on the Hugging Face Hub: python -m vdm.hub push CHECKPOINT OWNER/NAME uploads one.

`hf://OWNER/NAME` names a model there wherever vdm takes an exported file, `hf://OWNER/NAME@REVISION`
one of its branches, tags or commits. A repository holds model.safetensors and README.md, the model
card. Tokens, cache and server are those of huggingface_hub: `hf auth login` or HF_TOKEN, HF_HOME,
HF_HUB_OFFLINE, HF_ENDPOINT.
"""

import argparse
import contextlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import ml_collections

from vdm.build import count_parameters
from vdm.configuration.stored import from_record
from vdm.exported import load_exported, load_exported_config
from vdm.files import as_path, local_copy
from vdm.markdown import table
from vdm.parallel.processes import first_line
from vdm.shipped import checkpoint_names, find_checkpoint

_FILE = "model.safetensors"
_REFERENCE = re.compile(r"(?:hf://)?([\w.-]+/[\w.-]+)(?:@(.+))?")
_LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"
_KINDS = {  # by config.data.condition
    "none": "unconditional",
    "label": "class-conditional",
    "text": "text-to-video",
    "action": "action-conditional",
}
_USAGE = """## Use

```
pip install "video-diffusion-jax[{extras}]"
```

```python
import vdm

model = vdm.load("{reference}")
videos = model.sample(4{condition})  # uint8 [n, frames, height, width, channels]
```
"""


def pull(reference: str) -> Path:
    """Downloads hf://OWNER/NAME or hf://OWNER/NAME@REVISION, unless the cache has its file.

    Returns:
      The path of the exported file, in the cache of huggingface_hub.

    Raises:
      ValueError, OSError: the message names the reference.
    """
    repository, revision = _parsed(reference)
    with _one_sentence(reference):
        from huggingface_hub import HfApi

        path = Path(HfApi().hf_hub_download(repository, _FILE, revision=revision))
    try:
        load_exported_config(path)
    except ValueError as error:
        raise ValueError(f"{reference} is no model of vdm: {error}") from error
    return path


def push(
    checkpoint: str,
    reference: str,
    *,
    private: bool = False,
    license: str = "",
    card: Path | None = None,
) -> str:
    """Uploads an exported file and a model card in one commit; returns the URL of the commit.

    Args:
      checkpoint: path of an exported file, or the name of a shipped checkpoint.
      reference: OWNER/NAME or OWNER/NAME@BRANCH; a missing repository or branch is created.
      private: whether only its owner sees the repository.
      license: identifier of the licence of the weights, such as 'apache-2.0'; default none.
      card: Markdown file of the card; default that of a shipped checkpoint, or a table of the
        configuration. The Hub's metadata precede it unless it starts with its own.

    Raises:
      ValueError, OSError: the message names the file or the reference.
    """
    repository, branch = _parsed(reference)
    reference = f"hf://{repository}" + (f"@{branch}" if branch else "")
    path = find_checkpoint(checkpoint) or as_path(checkpoint)
    if path.is_dir():
        raise ValueError(
            f"{checkpoint} is a folder, and must be an exported file: --mode=export writes "
            f"{path / _FILE}"
        )
    params = load_exported(path)  # verifies the digest, too
    record, step = load_exported_config(path)
    config = from_record(record, path)
    usage = _usage(config, reference)
    if card is not None:
        page = card.read_text(encoding="utf-8")
    elif checkpoint in checkpoint_names():
        page = path.with_suffix(".md").read_text(encoding="utf-8")
        # Its relative links lead nowhere on the Hub.
        page = re.sub(r"\[([^\]]+)\]\(\.[^)]*\)", r"\1", page) + "\n" + usage
    else:
        page = "\n".join([*_described(config, step, params), "", usage])
    if not page.startswith("---\n"):
        page = _metadata(config, license) + page
    elif license:
        raise ValueError(f"--license is {license!r}, and must be in the metadata of {card}")
    with local_copy(path) as file, _one_sentence(reference):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        api.create_repo(repository, private=private or None, exist_ok=True)
        # An existing repository keeps its visibility.
        if private and not api.repo_info(repository).private:
            raise ValueError("the repository exists and is public, and --private does not hide it")
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(_FILE, file), CommitOperationAdd("README.md", page.encode())],
            commit_message="Upload a model of vdm",
            revision=branch,
        )
    return commit.commit_url


def _usage(config: ml_collections.ConfigDict, reference: str) -> str:
    """Returns the commands that install vdm and sample the model."""
    condition = {
        "none": "",
        "label": ", label=0",
        "text": ', caption="..."',
        "action": f", action={(0,) * config.model.action_width}",
    }[config.data.condition]
    encodes = config.data.condition == "text" and config.data.text_encoder != "words"
    extras = "hub,text" if encodes else "hub"
    return _USAGE.format(reference=reference, condition=condition, extras=extras)


def _metadata(config: ml_collections.ConfigDict, license: str) -> str:
    """Returns the metadata of a model card, as YAML."""
    kind = _KINDS[config.data.condition]
    metadata: dict[str, object] = {
        "library_name": "video-diffusion-jax",
        "tags": ["vdm", "jax", "flax", "video-diffusion", "video-generation", kind],
    }
    if config.data.condition == "text":
        metadata["pipeline_tag"] = "text-to-video"
    if license:
        metadata["license"] = license
    # JSON is YAML.
    entries = [f"{name}: {json.dumps(value)}" for name, value in metadata.items()]
    return "\n".join(["---", *entries, "---", "", ""])


def _described(config: ml_collections.ConfigDict, step: int, params: dict) -> list[str]:
    """Returns the lines of a card without prose; paths of the configuration are not among them."""
    data, sample = config.data, config.sample
    size = f"{data.resolution}x{data.resolution} pixels, {data.channels} channels"
    rows = [
        ("file", f"`{_FILE}`, EMA weights with the configuration inside"),
        ("video", f"{data.frames} frames of {size}"),
        ("data set", data.name),
        ("condition", data.condition),
        ("parameters", f"{count_parameters(params):,}"),
        ("training steps", f"{step:,}"),
        ("sampler", f"{sample.sampler}, {sample.num_steps} steps"),
        ("guidance weight", sample.guidance_weight),
    ]
    title = f"# Video diffusion model, {_KINDS[data.condition]}"
    return [title, "", *table(("field", "value"), rows)]


def _parsed(reference: str) -> tuple[str, str | None]:
    """Returns OWNER/NAME, and the revision if there is one."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"{reference} must be hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError(
            f'{reference} needs huggingface_hub: pip install "video-diffusion-jax[hub]"'
        )
    return match[1], match[2]


@contextlib.contextmanager
def _one_sentence(reference: str) -> Iterator[None]:
    """Replaces errors of huggingface_hub by an OSError with one sentence about a reference."""
    try:
        yield
    except Exception as error:  # Those of connections have no base class in common.
        raise OSError(f"{reference}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    from huggingface_hub import HfApi, errors

    endpoint = HfApi().endpoint
    is_uncached = isinstance(error, errors.LocalEntryNotFoundError)
    if is_uncached and isinstance(error.__cause__, Exception):
        error = error.__cause__  # of the request for a file that the cache does not have
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = first_line(error)
    if isinstance(error, errors.GatedRepoError):
        return f"access to the repository has to be requested on its page; then {_LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private: check the name, or {_LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such branch, tag or commit"
    if isinstance(error, errors.EntryNotFoundError) and status:
        return f"the repository has no {_FILE}, the file that --mode=export writes"
    if status in (401, 403):
        return f"access is denied (status {status}): {_LOG_IN} to a token with the permission"
    if status:
        return f"{endpoint} answers with status {status}: {reason}"
    # A name that huggingface_hub refuses, or an error of the local disk.
    if isinstance(error, ValueError) or getattr(error, "errno", None):
        return reason
    if isinstance(error, errors.OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set"
    cached = ", and the file is not in the cache" if is_uncached else ""
    return f"{endpoint} cannot be reached{cached}: {reason}"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m vdm.hub", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="push")
    command = commands.add_parser("push", help="uploads an exported file and a model card")
    command.add_argument(
        "checkpoint", help="exported .safetensors file, or name of a shipped checkpoint"
    )
    command.add_argument(
        "reference",
        metavar="OWNER/NAME[@BRANCH]",
        help="repository on the Hub; a missing repository or branch is created",
    )
    command.add_argument("--private", action="store_true", help="create a private repository")
    command.add_argument(
        "--license", default="", help="licence of the weights, such as apache-2.0; default: none"
    )
    command.add_argument(
        "--card",
        type=Path,
        help="Markdown file of the model card; default: that of a shipped checkpoint, or a table "
        "of the configuration",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Uploads a model, and prints the URL of the commit."""
    flags = parse(argv)
    try:
        print(push(**vars(flags)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
