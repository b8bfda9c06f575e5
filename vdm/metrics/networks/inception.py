"""Inception-v3 as released on 2015-12-05, the network of FID and of the Inception Score.

Module names are those of the released graph, `classify_image_graph_def.pb`. The network differs
from the Inception-v3 of Szegedy et al. (2015, arXiv:1512.00567) and of later libraries: average
pools exclude padding, and the last block has a max pool.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.metrics.networks.layers import PRECISION, ConvUnit, average_pool, max_pool

NUM_FEATURES = 2048
NUM_CLASSES = 1008
RESOLUTION = 299

Units = tuple[tuple[int, tuple[int, int]], ...]  # output channels and kernel size of each


class InceptionV3(nn.Module):
    """Inception-v3: images to features and, with a head, to logits."""

    head: bool = False  # whether the network has the layer of the 1,008 logits

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch 2048"], Float[Array, "batch 1008"] | None]:
        """Returns the 2,048 features of the last pool (pool3) and the logits, None without a head.

        The logits have no bias, because the reference implementation of the Inception Score
        multiplies pool3 by the last layer's weights and applies the softmax. Images have 299x299
        pixels, (byte - 128) / 128.

        Raises:
          ValueError: the size is not 299x299.
        """
        if images.shape[1:3] != (RESOLUTION, RESOLUTION):
            raise ValueError(
                f"Inception-v3 needs {RESOLUTION}x{RESOLUTION} pixels, "
                f"not {images.shape[1]}x{images.shape[2]}"
            )
        h = ConvUnit(32, (3, 3), 2, "VALID", name="conv")(images)
        h = ConvUnit(32, (3, 3), 1, "VALID", name="conv_1")(h)
        h = ConvUnit(64, (3, 3), name="conv_2")(h)
        h = max_pool(h, (3, 3), (2, 2), "VALID")
        h = ConvUnit(80, (1, 1), name="conv_3")(h)
        h = ConvUnit(192, (3, 3), 1, "VALID", name="conv_4")(h)
        h = max_pool(h, (3, 3), (2, 2), "VALID")
        for index, block in enumerate(_blocks()):
            h = MixedBlock(**block, name=_numbered("mixed", index))(h)
        features = h.mean(axis=(1, 2))
        if not self.head:
            return features, None
        head = nn.Dense(NUM_CLASSES, use_bias=False, precision=PRECISION, name="softmax")
        return features, head(features)


class MixedBlock(nn.Module):
    """An Inception module: a convolution, towers of convolutions and a pool, concatenated."""

    conv: int  # output channels of the single convolution, 0 for none
    towers: tuple[Units, ...]
    pool_features: int  # output channels of the convolution after the pool, 0 for none
    max_pool: bool = False  # whether to pool by maximum instead of average
    reduce: bool = False  # whether every branch ends with stride 2 and no padding
    split: bool = False  # whether every tower ends with parallel 1x3 and 3x1 convolutions

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        branches = []
        if self.conv:
            size, stride, padding = ((3, 3), 2, "VALID") if self.reduce else ((1, 1), 1, "SAME")
            branches.append(ConvUnit(self.conv, size, stride, padding, name="conv")(h))
        for index, units in enumerate(self.towers):
            tower = Tower(units, self.reduce, self.split, name=_numbered("tower", index))
            branches.append(tower(h))
        if self.reduce:
            pooled = max_pool(h, (3, 3), (2, 2), "VALID")
        elif self.max_pool:
            pooled = max_pool(h, (3, 3), (1, 1))
        else:
            pooled = average_pool(h, 3)
        if self.pool_features:
            tower = Tower(
                ((self.pool_features, (1, 1)),), name=_numbered("tower", len(self.towers))
            )
            pooled = tower(pooled)
        return jnp.concatenate([*branches, pooled], axis=-1)


class Tower(nn.Module):
    """A tower of `MixedBlock`: a sequence of convolutions."""

    units: Units
    reduce: bool = False
    split: bool = False

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        for index, (features, kernel_size) in enumerate(self.units):
            last = self.reduce and index + 1 == len(self.units)
            stride, padding = (2, "VALID") if last else (1, "SAME")
            name = _numbered("conv", index)
            h = ConvUnit(features, kernel_size, stride, padding, name=name)(h)
        return Split(h.shape[-1], name="mixed")(h) if self.split else h


class Split(nn.Module):
    """A 1x3 and a 3x1 convolution of the same input, concatenated."""

    features: int  # output channels of each

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width features"]:
        return jnp.concatenate(
            [
                ConvUnit(self.features, (1, 3), name="conv")(h),
                ConvUnit(self.features, (3, 1), name="conv_1")(h),
            ],
            axis=-1,
        )


def _blocks() -> list[dict]:
    """Returns the arguments of each MixedBlock; comments give the names in later libraries."""

    def block_35(pool_features: int) -> dict:
        small = ((48, (1, 1)), (64, (5, 5)))
        large = ((64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
        return {"conv": 64, "towers": (small, large), "pool_features": pool_features}

    def block_17(c: int) -> dict:
        small = ((c, (1, 1)), (c, (1, 7)), (192, (7, 1)))
        large = ((c, (1, 1)), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7)))
        return {"conv": 192, "towers": (small, large), "pool_features": 192}

    def block_8(**pool: bool) -> dict:
        towers = (((384, (1, 1)),), ((448, (1, 1)), (384, (3, 3))))
        return {"conv": 320, "towers": towers, "pool_features": 192, "split": True, **pool}

    to_17 = (((64, (1, 1)), (96, (3, 3)), (96, (3, 3))),)
    to_8 = (
        ((192, (1, 1)), (320, (3, 3))),
        ((192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3))),
    )
    return [
        *(block_35(features) for features in (32, 64, 64)),  # Mixed_5b to Mixed_5d
        {"conv": 384, "towers": to_17, "pool_features": 0, "reduce": True},  # Mixed_6a
        *(block_17(features) for features in (128, 160, 160, 192)),  # Mixed_6b to Mixed_6e
        {"conv": 0, "towers": to_8, "pool_features": 0, "reduce": True},  # Mixed_7a
        block_8(),  # Mixed_7b
        block_8(max_pool=True),  # Mixed_7c
    ]


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name
