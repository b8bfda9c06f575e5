"""Models on the Hugging Face Hub: python -m vdm.hub push CHECKPOINT OWNER/NAME uploads one.

`hf://OWNER/NAME` names a model there wherever vdm takes an exported file, `hf://OWNER/NAME@REVISION`
one of its branches, tags or commits. A repository holds model.safetensors and README.md, the model
card. Tokens, cache and server are those of huggingface_hub: `hf auth login` or HF_TOKEN, HF_HOME,
HF_HUB_OFFLINE, HF_ENDPOINT.
"""

import argparse
import sys

from vdm.files import local_path
from vdm.hub.upload import push
from vdm.interruptible import interruptible


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
        type=local_path,
        help="Markdown file of the model card; default: that of a shipped checkpoint, or a table "
        "of the configuration",
    )
    return parser.parse_args(argv)


@interruptible()
def main(argv: list[str] | None = None) -> None:
    """Uploads a model, and prints the URL of the commit."""
    flags = parse(argv)
    try:
        print(push(**vars(flags)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
