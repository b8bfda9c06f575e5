"""The report of an evaluation by config.eval.protocol."""

import ml_collections

from vdm.evaluation import moving_digits, protocol
from vdm.files import AnyPath, make_folder, write_record, write_text


def evaluate_to_folder(
    config: ml_collections.ConfigDict, params: dict, step: int, folder: AnyPath
) -> AnyPath | None:
    """Evaluates a model and writes the report with `write_report`.

    Every process makes the call, and process 0 writes.

    Args:
      config: the configuration.
      params: EMA parameters.
      step: number of training steps of the parameters.
      folder: output folder; folder/samples holds the samples, from which an interrupted evaluation
        resumes.

    Returns:
      The path of the Markdown page on process 0, None on the others.
    """
    evaluation = moving_digits if config.eval.protocol == moving_digits.PROTOCOL else protocol
    result = evaluation.evaluate(config, params, step, folder / "samples")
    if result is None:
        return None
    return write_report(folder, result, evaluation.to_markdown(result))


def write_report(folder: AnyPath, result: dict, markdown: str) -> AnyPath:
    """Writes NAME.json and NAME.md, where NAME is result['protocol']['name'].

    Args:
      folder: output folder, created if missing.
      result: the result as JSON.
      markdown: the result as a Markdown page.

    Returns:
      The path of the page.
    """
    make_folder(folder)
    name = result["protocol"]["name"]
    write_record(folder / f"{name}.json", result)
    page = folder / f"{name}.md"
    write_text(page, markdown)
    return page
