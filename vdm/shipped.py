"""Trained weights by name, of the package or of the Hugging Face Hub; the package's folders."""

import os
from pathlib import Path

import vdm
from vdm.files import EXPORTED_FILE, AnyPath


def package_folders(name: str) -> list[Path]:
    """Returns where a folder may be: in an installed package, and in the repository."""
    return [parent / name for parent in Path(vdm.__file__).parents[:2]]


_FOLDERS = package_folders("checkpoints")


def checkpoint_names() -> list[str]:
    """Returns the names of the checkpoints that come with the package."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.safetensors")})


def find_clips(data: str) -> Path | None:
    """Returns the test clips of a data set that come with the package, DATA_clips.npz, or None."""
    return _find(f"{data}_clips.npz")


def _find(file: str) -> Path | None:
    paths = [folder / file for folder in _FOLDERS]
    return next((path for path in paths if path.is_file()), None)


def check_exists(path: AnyPath, field: str = "checkpoint") -> None:
    """Raises FileNotFoundError if the file of a field, default config.checkpoint, is missing."""
    if not path.is_file():
        hint = f"; --mode=export writes the file of a run, {path / EXPORTED_FILE}"
        raise FileNotFoundError(
            f"config.{field} is {str(path)!r}, and there is no file {path}: it must be an "
            "exported .safetensors file, hf://OWNER/NAME on the Hugging Face Hub, or one of "
            + ", ".join(checkpoint_names())
            + (hint if path.is_dir() else "")
        )


def find_checkpoint(name: str) -> AnyPath | None:
    """Returns the path of a shipped checkpoint, or of one of the Hugging Face Hub.

    Args:
      name: the name of a shipped checkpoint; or hf://OWNER/NAME or hf://OWNER/NAME@REVISION, which
        is downloaded if it is not in the cache.

    Returns:
      The path; None for other names, and for a file or a run of that name in the current folder.
      A folder without weights, as of a data set, hides no checkpoint.

    Raises:
      ValueError, OSError: the checkpoint of the Hub is unavailable; the message names it.
    """
    if name.startswith("hf://"):
        # Imported here, since names of shipped checkpoints need no JAX.
        from vdm.hub.download import pull

        return pull(name)
    path = Path(os.path.expanduser(name))
    has_weights = any((path / inner).exists() for inner in (EXPORTED_FILE, "checkpoints"))
    if path.is_file() or has_weights or name not in checkpoint_names():
        return None
    return _find(f"{name}.safetensors")
