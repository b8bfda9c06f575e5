"""Trained weights that come with the package, by name: checkpoints/NAME.safetensors."""

from pathlib import Path

import vdm
from vdm.files import AnyPath

# The folder of an installed package, or of the repository.
_FOLDERS = [
    Path(vdm.__file__).parent / "checkpoints",
    Path(vdm.__file__).parents[1] / "checkpoints",
]


def checkpoint_names() -> list[str]:
    """Returns the names of the checkpoints that come with the package."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.safetensors")})


def check_exists(path: AnyPath) -> None:
    """Raises FileNotFoundError if a file of config.checkpoint does not exist."""
    if not path.is_file():
        raise FileNotFoundError(
            f"config.checkpoint is {str(path)!r}, and there is no file {path}: it must be an "
            f"exported .safetensors file, or one of {', '.join(checkpoint_names())}"
        )


def find_checkpoint(name: str) -> AnyPath | None:
    """Returns the path of a shipped checkpoint; None for paths that exist and for other names."""
    if Path(name).expanduser().exists() or name not in checkpoint_names():
        return None
    paths = [folder / f"{name}.safetensors" for folder in _FOLDERS]
    return next(path for path in paths if path.is_file())
