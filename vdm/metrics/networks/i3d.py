"""The Inflated 3D ConvNet of Carreira and Zisserman (2017, arXiv:1705.07750), RGB stream.

With the weights of TF-Hub's deepmind/i3d-kinetics-400/1, it is the network of the Frechet Video
Distance (Unterthiner et al., 2018, arXiv:1812.01717). Module names are those of that checkpoint.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.metrics.networks.layers import ConvUnit, biased_conv, max_pool

NUM_CLASSES = 400
RESOLUTION = 224
MIN_FRAMES = 9  # two positions after the temporal stride of 8, as the last pooling requires

# Output channels of branch 0, of the two units each of branches 1 and 2, and of branch 3.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
    """I3D: videos to logits of Kinetics-400.

    Flax's `capture_intermediates` returns activations under the names of the checkpoint.
    """

    @nn.compact
    def __call__(
        self, videos: Float[Array, "batch frames height width 3"]
    ) -> Float[Array, "batch classes"]:
        """Returns the logits of at least 9 frames of 224x224 pixels in [-1, 1], averaged over time.

        Raises:
          ValueError: there are too few frames, or the size is wrong.
        """
        frames, *size = videos.shape[1:4]
        if frames < MIN_FRAMES:
            raise ValueError(f"I3D needs at least {MIN_FRAMES} frames, not {frames}")
        if size != [RESOLUTION, RESOLUTION]:
            raise ValueError(f"I3D needs {RESOLUTION}x{RESOLUTION} pixels, not {size[0]}x{size[1]}")
        h = ConvUnit(64, (7, 7, 7), stride=2, name="Conv3d_1a_7x7")(videos)
        h = max_pool(h, (1, 3, 3), (1, 2, 2))
        h = ConvUnit(64, (1, 1, 1), name="Conv3d_2b_1x1")(h)
        h = ConvUnit(192, (3, 3, 3), name="Conv3d_2c_3x3")(h)
        h = max_pool(h, (1, 3, 3), (1, 2, 2))
        for name, features in _MIXED.items():
            if name == "Mixed_4b":
                h = max_pool(h, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                h = max_pool(h, (2, 2, 2), (2, 2, 2))
            h = Mixed(features, name=name)(h)
        h = h.mean(axis=(2, 3), keepdims=True)
        h = (h[:, :-1] + h[:, 1:]) / 2  # with the line above: average pool 2x7x7, stride 1
        return Logits(name="Logits")(h)[:, :, 0, 0].mean(axis=1)


class Mixed(nn.Module):
    """An Inception module of four branches, concatenated along the channels."""

    features: tuple[int, int, int, int, int, int]  # as in the table above

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames height width features"]:
        point, box = (1, 1, 1), (3, 3, 3)
        f = self.features
        pooled = max_pool(h, box, (1, 1, 1))
        return jnp.concatenate(
            [
                Branch((("Conv3d_0a_1x1", f[0], point),), name="Branch_0")(h),
                Branch(
                    (("Conv3d_0a_1x1", f[1], point), ("Conv3d_0b_3x3", f[2], box)), name="Branch_1"
                )(h),
                Branch(
                    (("Conv3d_0a_1x1", f[3], point), ("Conv3d_0b_3x3", f[4], box)), name="Branch_2"
                )(h),
                Branch((("Conv3d_0b_1x1", f[5], point),), name="Branch_3")(pooled),
            ],
            axis=-1,
        )


class Branch(nn.Module):
    """A sequence of convolutions."""

    units: tuple[tuple[str, int, tuple[int, int, int]], ...]  # name, output channels, kernel size

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames height width features"]:
        for name, features, kernel_size in self.units:
            h = ConvUnit(features, kernel_size, name=name)(h)
        return h


class Logits(nn.Module):
    """The classifier: a 1x1x1 convolution with a bias."""

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames height width classes"]:
        return biased_conv(NUM_CLASSES, (1, 1, 1), "Conv3d_0c_1x1")(h)
