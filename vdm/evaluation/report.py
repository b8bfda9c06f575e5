"""Evaluates by config.eval.protocol, and writes a report named by its settings."""

import hashlib
import json

import ml_collections

from vdm.evaluation import moving_digits, protocol
from vdm.files import AnyPath, make_folder, write_record, write_text
from vdm.sampling.sample_store import samples_made_by

# Fields of config.eval that determine a result; the others only affect speed.
_SETTINGS = ("protocol", "baseline", "num_videos", "repeats", "log_snr_bins")


def evaluate_to_folder(
    config: ml_collections.ConfigDict, params: dict, step: int, folder: AnyPath
) -> AnyPath | None:
    """Evaluates a model and writes the report with `write_report`.

    File names contain the protocol, and a digest of the weights and of all settings that determine
    the result. Every process must make the call; process 0 writes.

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
    digest = _digest_of_settings(config, params)  # collective: every process gathers the weights
    result = evaluation.evaluate(config, params, step, folder / "samples")
    if result is None:
        return None
    name = f"{result['protocol']['name']}_{digest}"
    return write_report(folder, name, result, evaluation.to_markdown(result))


def _digest_of_settings(config: ml_collections.ConfigDict, params: dict) -> str:
    """Returns 8 hexadecimal digits that identify the weights and all settings of a result."""
    settings = {name: config.eval[name] for name in _SETTINGS}
    record = {**samples_made_by(config, params), "eval": settings}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]


def write_report(folder: AnyPath, name: str, result: dict, markdown: str) -> AnyPath:
    """Writes NAME.json and NAME.md, and returns the path of the latter.

    Args:
      folder: output folder, created if missing.
      name: name of the files.
      result: the result as JSON.
      markdown: the result as a Markdown page.

    Returns:
      The path of the page.
    """
    make_folder(folder)
    write_record(folder / f"{name}.json", result)
    page = folder / f"{name}.md"
    write_text(page, markdown)
    return page
