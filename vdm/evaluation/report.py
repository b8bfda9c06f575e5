"""Results on disk."""

import json
from pathlib import Path


def write_report(folder: Path, result: dict, markdown: str) -> Path:
    """Writes NAME.json and NAME.md, by the name of the result's protocol.

    Args:
      folder: is made where it is missing.
      result: ready for JSON, with `protocol`.
      markdown: the result as a page.

    Returns:
      The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = result["protocol"]["name"]
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    page = folder / f"{name}.md"
    page.write_text(markdown)
    return page
