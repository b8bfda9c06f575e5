"""Evaluation of moving digits: digit persistence and held-out loss."""

import ml_collections
import numpy as np

from vdm import markdown
from vdm.data.datasets import held_out_videos
from vdm.evaluation.digit_persistence import persistence_report
from vdm.evaluation.held_out_loss import make_held_out_loss, mean_loss
from vdm.files import AnyPath
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.parallel.messages import is_first_process
from vdm.sampling.conditions import conditions
from vdm.sampling.sample_store import stored_samples
from vdm.video.pixels import to_uint8

PROTOCOL = "moving_digits"
_KINDS = ("samples", "real", "noise")


def evaluate(
    config: ml_collections.ConfigDict, params: dict, step: int, folder: AnyPath
) -> dict | None:
    """Measures digit persistence of samples and, for the task 'generate', held-out loss.

    Args:
      config: the configuration.
      params: EMA parameters.
      step: number of training steps of the parameters.
      folder: folder of the samples, from which an interrupted evaluation resumes.

    Returns:
      Protocol and results as JSON on process 0, None on the others.
    """
    mesh = make_mesh(config)
    params = sharded_params(mesh, params)
    generates = config.sample.task == "generate"
    loss: dict = {"target": config.diffusion.target, "bins": []}
    if generates:
        print("computing the held-out loss", flush=True)
        loss["bins"] = make_held_out_loss(config, mesh)(params)
        loss["mean"] = mean_loss(config, loss["bins"])

    count = config.eval.num_videos
    store = stored_samples(folder, config, params, mesh, count)
    if not is_first_process():
        return None
    videos = np.stack(list(store))
    real = to_uint8(held_out_videos(config, videos.shape[1]).batch(0, count)["video"])
    labels = None
    if config.data.condition == "label" and config.sample.guidance_weight:
        labels = conditions(config, range(count))["label"]
    persistence = persistence_report(videos, real=real, labels=labels)
    persistence["samples_over_real"] = over_real(persistence, "samples")
    return {
        "protocol": {
            "name": PROTOCOL
            if generates
            else f"{PROTOCOL}_{config.sample.task}_{config.sample.conditioning}",
            "split": "test",
            "videos": count,
            "frames": videos.shape[1],
            "weights": "EMA",
            "step": step,
            "data": config.data.to_dict(),
            "sample": config.sample.to_dict(),
        },
        "held_out_loss": loss,
        "digit_persistence": persistence,
    }


def over_real(persistence: dict, name: str) -> float | None:
    """Returns persistence relative to real videos; None if that of (a few) real videos is 0."""
    real = persistence["real"]["persistence"]
    return persistence[name]["persistence"] / real if real else None


def to_markdown(result: dict) -> str:
    """Formats a result as a Markdown page with two tables."""
    protocol, persistence = result["protocol"], result["digit_persistence"]
    sample = protocol["sample"]
    min_frames = persistence["share_of_frames"] * protocol["frames"]
    lines = [
        "# Moving digits",
        "",
        f"EMA weights after {protocol['step']:,} steps; {protocol['videos']} videos by the "
        f"{sample['sampler']} sampler in {sample['num_steps']} steps, seed {sample['seed']}, task "
        f"{sample['task']}{_method(sample)}; real videos of held-out handwriting.",
        "",
        "Digit persistence: the share of videos in which a classifier trained on real digits reads "
        f"the same digit in at least {min_frames:g} of {protocol['frames']} frames. Displacement: "
        "motion of the ink's centre of mass, in pixels per frame.",
        "",
    ]
    header = ("videos", "persistence", "over real", "displacement", "persistent videos of 0 to 9")
    lines += markdown.table(header, [_row(name, persistence) for name in _KINDS])
    if "as_asked" in persistence["samples"]:
        lines += [
            "",
            f"The model is conditioned on a digit, with guidance weight "
            f"{sample['guidance_weight']:g}: {persistence['samples']['as_asked']:.3f} of the "
            "samples keep that digit.",
        ]
    if not result["held_out_loss"]["bins"]:
        return "\n".join(lines) + "\n"
    loss = result["held_out_loss"]
    lines += [
        "",
        f"Held-out loss: mean squared error of {loss['target']}, by log-SNR; "
        f"{loss['mean']:.5f} with the log-SNRs of training.",
        "",
    ]
    losses = [
        (
            f"{row['log_snr_from']:g} to {row['log_snr_to']:g}",
            f"{row['loss']:.5f}"
            + (f" +- {row['standard_error']:.5f}" if "standard_error" in row else ""),
        )
        for row in loss["bins"]
    ]
    lines += markdown.table(("log-SNR", "loss"), losses)
    return "\n".join(lines) + "\n"


def _row(name: str, persistence: dict) -> tuple[str, ...]:
    row = persistence[name]
    ratio = over_real(persistence, name)
    return (
        name,
        f"{row['persistence']:.3f} +- {row['persistence_standard_error']:.3f}",
        "-" if ratio is None else f"{ratio:.1%}",
        f"{row['displacement']:.2f}",
        ", ".join(map(str, row["digit_histogram"])),
    )


def _method(sample: dict) -> str:
    if sample["task"] == "generate":
        return ""
    weights = {
        "reconstruction": "reconstruction_weight",
        "diffusion_forcing": "history_guidance_weight",
    }
    method = sample["conditioning"]
    detail = f", weight {sample[weights[method]]:g}" if method in weights else ""
    return f" by {method}{detail}"
