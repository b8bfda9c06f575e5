"""A web page on which trained models sample and complete videos: python -m vdm.demo."""

import argparse
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from vdm.interruptible import interruptible
from vdm.shipped import checkpoint_names


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m vdm.demo", description=__doc__)
    parser.add_argument(
        "--checkpoint",
        action="append",
        help="exported .safetensors file, workdir, name of a shipped checkpoint, or "
        "hf://OWNER/NAME on the Hugging Face Hub; may be repeated; default: all shipped ones "
        f"({', '.join(checkpoint_names())})",
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="0 takes a free one; default: %(default)s"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other machines of the network use the page; "
        "default: %(default)s",
    )
    parsed = parser.parse_args(argv)
    if not 0 <= parsed.port < 2**16:
        parser.error(f"--port is {parsed.port}, and must be from 0 to {2**16 - 1}")
    return parsed


def free_port(host: str, port: int) -> int:
    """Returns the port, or a free port if it is 0.

    Raises:
      OSError: the page cannot be served there, for example because the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as server:
            return server.getsockname()[1]
    except OSError as error:
        raise OSError(f"--host={host} --port={port} cannot be used: {error.strerror}") from error


@interruptible()
def main(argv: list[str] | None = None) -> None:
    """Serves the page until interrupted."""
    flags = parse(argv)
    if importlib.util.find_spec("gradio") is None:
        sys.exit('error: the demo needs Gradio: pip install "video-diffusion-jax[demo]"')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # deletes the folder, as Ctrl+C does
    with tempfile.TemporaryDirectory(prefix="vdm_demo_") as folder:
        # Folder of uploaded and displayed files; must be set before Gradio is imported.
        os.environ["GRADIO_TEMP_DIR"] = folder
        from vdm.demo.page import launch, make_page
        from vdm.demo.requests import Demo
        from vdm.main import keep_compiled_programs
        from vdm.parallel.processes import check_devices

        keep_compiled_programs()
        try:
            check_devices()
            port = free_port(flags.host, flags.port)
            demo = Demo(flags.checkpoint or checkpoint_names(), Path(folder))
            for checkpoint in demo.checkpoints:
                demo.model(checkpoint)
            launch(make_page(demo), host=flags.host, port=port)
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
