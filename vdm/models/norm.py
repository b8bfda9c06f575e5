"""Group normalisation of each frame by itself."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# The paper does not give its groups; 32 is what the authors' released diffusion code uses.
_MOST_GROUPS = 32
_FEWEST_CHANNELS_A_GROUP = 4


class FrameGroupNorm(nn.Module):
    """Group normalisation with statistics over one frame's pixels.

    Statistics that pooled frames would let independent images change the video frames beside them,
    and would tie the network to one number of frames.

    Attributes:
      dtype: of the result; statistics are float32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames height width channels"]:
        channels = h.shape[-1]
        groups = math.gcd(_MOST_GROUPS, max(1, channels // _FEWEST_CHANNELS_A_GROUP))
        folded = h.reshape(-1, *h.shape[2:])
        folded = nn.GroupNorm(num_groups=groups, dtype=self.dtype, name="group_norm")(folded)
        return folded.reshape(h.shape)
