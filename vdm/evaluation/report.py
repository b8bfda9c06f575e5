"""Evaluates a model by config.eval.protocol and writes the report."""

import json
from pathlib import Path

import ml_collections

from vdm.evaluation import moving_digits, protocol
from vdm.files import write_text


def evaluate_to_folder(
    config: ml_collections.ConfigDict, params: dict, step: int, folder: Path
) -> Path | None:
    """Evaluates a model and writes the report with `write_report`.

    Every process has to make the call; process 0 writes.

    Args:
      config: the configuration.
      params: EMA parameters.
      step: training steps behind the parameters.
      folder: of `write_report`; its folder `samples` holds the samples, which an interrupted
        evaluation reuses.

    Returns:
      The path of the page, None on all processes but the first.
    """
    evaluation = moving_digits if config.eval.protocol == moving_digits.PROTOCOL else protocol
    result = evaluation.evaluate(config, params, step, folder / "samples")
    if result is None:
        return None
    return write_report(folder, result, evaluation.to_markdown(result))


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
    write_text(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")
    page = folder / f"{name}.md"
    write_text(page, markdown)
    return page
