"""C3D (Tran et al., 2014, arXiv:1412.0767) fine-tuned on UCF101, for UCF101's Inception Score.

This is the network of TGAN's evaluation (Saito et al., 2017 and 2018), which later papers use.
Layer names are those of its `conv3d_deepnetA_ucf.npz`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.metrics.networks.layers import PRECISION, biased_conv, max_pool

NUM_FEATURES = 4096
NUM_CLASSES = 101
NUM_FRAMES = 16
RESOLUTION = 112


class C3D(nn.Module):
    """C3D: videos to features and to logits of UCF101's classes."""

    @nn.compact
    def __call__(
        self, videos: Float[Array, "batch frames height width 3"]
    ) -> tuple[Float[Array, "batch features"], Float[Array, "batch classes"]]:
        """Returns the features (fc7 after its ReLU) and the logits.

        Videos are BGR in 0..255 minus the mean volume, 16 frames of 112x112 pixels.

        Raises:
          ValueError: the number of frames or the size is wrong.
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
                h = nn.relu(biased_conv(features, (3, 3, 3), name)(h))
            # 'SAME' pools the last row of 7x7 on its own, as in Caffe and Chainer.
            h = max_pool(h, pool, pool)
        # fc6 was trained with channels first.
        h = jnp.moveaxis(h, -1, 1).reshape(h.shape[0], -1)
        for name in ("fc6", "fc7"):
            h = nn.relu(nn.Dense(NUM_FEATURES, precision=PRECISION, name=name)(h))
        return h, nn.Dense(NUM_CLASSES, precision=PRECISION, name="fc8")(h)
