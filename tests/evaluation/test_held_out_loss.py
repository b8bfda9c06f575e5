"""Held-out loss against the closed form for a network that predicts zero."""

import numpy as np
import pytest

from tests.compiled import init_params
from vdm.build import make_schedule
from vdm.data.moving_digits import MovingDigits
from vdm.evaluation.held_out_loss import make_held_out_loss, make_mean_held_out_loss, mean_loss
from vdm.parallel.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("target", ["eps", "v"])
def test_zero_prediction_has_the_mean_square_of_the_target(tiny_config, target):
    config = tiny_config
    config.diffusion.target = target
    config.eval.update(num_videos=50, log_snr_bins=8, batch_size=16)
    params = init_params(config)  # the last convolution starts from zeros
    rows = make_held_out_loss(config, make_mesh(config))(params)
    videos = MovingDigits("test", frames=4, resolution=8).batch(0, 50)["video"]
    mean_square = float(np.square(videos).mean())
    # The limits of the schedule, -20 and 20, shifted by -2.
    assert [row["log_snr_from"] for row in rows] == [-22, -17, -12, -7, -2, 3, 8, 13]
    for row in rows:
        # sigma^2 is the sigmoid of -log-SNR, whose mean over the bin is in closed form.
        low, high = row["log_snr_from"], row["log_snr_to"]
        sigma_squared = 1 - (np.logaddexp(0, high) - np.logaddexp(0, low)) / (high - low)
        expected = 1 if target == "eps" else 1 + sigma_squared * (mean_square - 1)
        assert abs(row["loss"] - expected) < 5 * row["standard_error"]
        assert row["standard_error"] < 0.05


def test_the_mean_has_the_weights_of_training(tiny_config):
    """The mean log-SNR over uniform times, from bins whose loss is the log-SNR in their middle."""
    tiny_config.diffusion.log_snr_shift = -2.0
    tiny_config.eval.log_snr_bins = 400
    edges = np.linspace(-22, 18, 401)
    rows = [{"loss": float(middle)} for middle in (edges[1:] + edges[:-1]) / 2]
    times = np.random.default_rng(0).random(100_000).astype(np.float32)
    expected = make_schedule(tiny_config)(times).mean()
    assert mean_loss(tiny_config, rows) == pytest.approx(float(expected), abs=0.1)


def test_one_video_has_a_loss_and_no_standard_error(tiny_config):
    tiny_config.eval.update(num_videos=1, log_snr_bins=2)
    rows = make_held_out_loss(tiny_config, make_mesh(tiny_config))(init_params(tiny_config))
    assert all(row["loss"] > 0 and "standard_error" not in row for row in rows)


def test_each_video_of_a_small_folder_counts_once(tiny_config, tmp_path, capsys):
    """Of five videos two are held out: as many losses, and the warning names both numbers."""
    random = np.random.default_rng(0)
    for index in range(5):
        video = random.integers(256, size=(4, 8, 8, 1), dtype=np.uint8)
        (folder := tmp_path / ("test" if index < 2 else "train")).mkdir(exist_ok=True)
        np.savez(folder / f"{index}.npz", video=video)
    config, mesh = tiny_config, make_mesh(tiny_config)
    config.data.update(name="folder", path=str(tmp_path), condition="none")
    config.eval.update(num_videos=2, log_snr_bins=2, batch_size=4)
    params = init_params(config)
    expected = make_held_out_loss(config, mesh)(params)
    make_mean_held_out_loss(config, mesh)
    assert "warning" not in capsys.readouterr().out
    config.eval.num_videos = 7
    found = make_held_out_loss(config, mesh)(params)
    assert found == expected  # the standard errors, too, which repeated videos would lower
    assert make_mean_held_out_loss(config, mesh)(params) == mean_loss(config, expected)
    message = (
        "eval.num_videos is 7, and there are only 2 held-out videos: "
        "the held-out loss is over these\n"
    )
    assert f"warning: config.{message}" in capsys.readouterr().out
