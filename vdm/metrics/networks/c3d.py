"""C3D (Tran et al., 2014, arXiv:1412.0767), finetuned on UCF101: the Inception Score of UCF101.

As in the evaluation of TGAN (Saito et al., 2017 and 2018) that later papers took over; layers are
named as in its `conv3d_deepnetA_ucf.npz`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.metrics.networks.layers import PRECISION, convolve, max_pool

NUM_FEATURES = 4096
NUM_CLASSES = 101
NUM_FRAMES = 16
RESOLUTION = 112


class C3D(nn.Module):
    """Videos to features and the logits of UCF101's classes."""

    @nn.compact
    def __call__(
        self, videos: Float[Array, "batch frames height width 3"]
    ) -> tuple[Float[Array, "batch features"], Float[Array, "batch classes"]]:
        """The features, fc7 after its ReLU, and the logits.

        Args:
          videos: BGR bytes less the mean volume, 16 frames of 112x112 pixels.

        Raises:
          ValueError: another number of frames, or another size.
        """
        if videos.shape[1:4] != (NUM_FRAMES, RESOLUTION, RESOLUTION):
            raise ValueError(
                f"C3D needs {NUM_FRAMES} frames of {RESOLUTION}x{RESOLUTION} pixels, "
                "not {} of {}x{}".format(*videos.shape[1:4])
            )
        h = videos
        for features, names, pool in (
            (64, ("conv1a",), (1, 2, 2)),
            (128, ("conv2a",), (2, 2, 2)),
            (256, ("conv3a", "conv3b"), (2, 2, 2)),
            (512, ("conv4a", "conv4b"), (2, 2, 2)),
            (512, ("conv5a", "conv5b"), (2, 2, 2)),
        ):
            for name in names:
                h = nn.Conv(
                    features,
                    (3, 3, 3),
                    conv_general_dilated=lambda h, kernel, *_, **__: convolve(h, kernel),
                    name=name,
                )(h)
                h = nn.relu(h)
            # 'SAME' puts the odd row of 7x7 into a window of its own, as Caffe and Chainer do.
            h = max_pool(h, pool, pool)
        # Channels first, the order in which fc6 was trained.
        h = jnp.moveaxis(h, -1, 1).reshape(h.shape[0], -1)
        for name in ("fc6", "fc7"):
            h = nn.relu(nn.Dense(NUM_FEATURES, precision=PRECISION, name=name)(h))
        return h, nn.Dense(NUM_CLASSES, precision=PRECISION, name="fc8")(h)
