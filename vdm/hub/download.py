"""Downloads of models from the Hugging Face Hub, and what uploads share with them."""

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from vdm.exported import load_exported_config
from vdm.files import EXPORTED_FILE
from vdm.parallel.processes import first_line

_REFERENCE = re.compile(r"(?:hf://)?([\w.-]+/[\w.-]+)(?:@(.+))?")
_LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


def pull(reference: str) -> Path:
    """Downloads hf://OWNER/NAME or hf://OWNER/NAME@REVISION, unless the cache has its file.

    Returns:
      The path of the exported file, in the cache of huggingface_hub.

    Raises:
      ValueError, OSError: the message names the reference.
    """
    repository, revision = parse_reference(reference)
    with one_sentence(reference):
        from huggingface_hub import HfApi

        path = Path(HfApi().hf_hub_download(repository, EXPORTED_FILE, revision=revision))
    try:
        load_exported_config(path)
    except ValueError as error:
        raise ValueError(f"{reference} is no model of vdm: {error}") from error
    return path


def parse_reference(reference: str) -> tuple[str, str | None]:
    """Returns OWNER/NAME of hf://OWNER/NAME, and the revision if there is one.

    Raises:
      ValueError: it is no such reference, or huggingface_hub is missing.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"{reference} must be hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError(
            f'{reference} needs huggingface_hub: pip install "video-diffusion-jax[hub]"'
        )
    return match[1], match[2]


@contextlib.contextmanager
def one_sentence(reference: str) -> Iterator[None]:
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
        return f"the repository has no {EXPORTED_FILE}, the file that --mode=export writes"
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
