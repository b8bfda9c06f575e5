"""Held-out loss against the closed form for a network that predicts zero."""

import numpy as np
import pytest

from tests.compiled import init_params
from vdm.data.moving_digits import MovingDigits
from vdm.evaluation.held_out_loss import held_out_loss
from vdm.parallel.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("target", ["eps", "v"])
def test_zero_prediction_has_the_mean_square_of_the_target(tiny_config, target):
    config = tiny_config
    config.diffusion.target = target
    config.eval.update(num_videos=50, log_snr_bins=8, batch_size=16)
    params = init_params(config)  # the last convolution starts from zeros
    rows = held_out_loss(config, params, make_mesh(config))
    videos = MovingDigits("test", frames=4, resolution=8).batch(0, 50)["video"]
    mean_square = float(np.square(videos).mean())
    assert [row["log_snr_from"] for row in rows] == [-20, -15, -10, -5, 0, 5, 10, 15]
    for row in rows:
        # sigma^2 is the sigmoid of -log-SNR, whose mean over the bin is in closed form.
        low, high = row["log_snr_from"], row["log_snr_to"]
        sigma_squared = 1 - (np.logaddexp(0, high) - np.logaddexp(0, low)) / (high - low)
        expected = 1 if target == "eps" else 1 + sigma_squared * (mean_square - 1)
        assert abs(row["loss"] - expected) < 5 * row["standard_error"]
        assert row["standard_error"] < 0.05
