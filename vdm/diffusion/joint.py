"""Joint denoising: a long video from a model of short ones, as overlapping blocks that agree.

MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113) in time, as in Gen-L-Video (Wang et al. 2023,
arXiv 2305.18264). The latent is the whole long video. At each step the model denoises all blocks as
one batch, and a frame's estimate is the mean over the blocks that contain it,

    x_hat = argmin_x sum_b || x[block b] - x_hat_b(z[block b]) ||^2

The result is a denoiser of long videos that works with all samplers, guidance and observations. It
is exact if there is one block, or if the blocks do not overlap and are independent. Otherwise it is
an approximation: an estimate depends only on the frames of its own blocks.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def block_starts(num_frames: int, block_frames: int, overlap: int) -> list[int]:
    """Returns the first frame of each block; the last block may overlap more, to fit the video.

    Args:
      num_frames: frames of the long video, at least block_frames.
      block_frames: frames of a block.
      overlap: frames that a block shares with the previous one, from 0 to block_frames - 1.

    Raises:
      ValueError: num_frames or overlap is out of range.
    """
    if num_frames < block_frames:
        raise ValueError(f"num_frames must be at least {block_frames}, not {num_frames}")
    if not 0 <= overlap < block_frames:
        raise ValueError(f"overlap must be from 0 to {block_frames - 1}, not {overlap}")
    last = num_frames - block_frames
    return [*range(0, last, block_frames - overlap), last]


def joint_denoiser(
    denoiser: Callable[..., Array],
    num_frames: int,
    block_frames: int,
    overlap: int,
    *,
    multiple: int = 1,
    distribute: Callable[[Array], Array] = lambda rows: rows,
) -> Callable[..., Array]:
    """Extends a denoiser of block_frames frames to one of num_frames frames.

    A step is one call of the denoiser on batch * blocks rows; row i * blocks + b is block b of
    video i. Videos sharded over devices need no communication. If there are fewer videos than
    devices, `multiple` and `distribute` shard the blocks instead.

    Args:
      denoiser: (z [rows, block_frames, ...], log_snr) -> x_hat, or with a condition as third
        argument.
      num_frames: frames of a long video.
      block_frames: frames of a block.
      overlap: frames that a block shares with the previous one.
      multiple: pads the number of rows to a multiple of this, such as the number of devices;
        default 1.
      distribute: function applied to the latents of all rows, such as a sharding constraint.

    Returns:
      The denoiser (z [batch, num_frames, ...], log_snr [batch] or [batch, num_frames]) -> x_hat.
      Its optional third argument is the condition, a pytree of arrays [batch, ...] that all blocks
      share.

    Raises:
      ValueError: num_frames or overlap is out of range for `block_starts`.
    """
    starts = block_starts(num_frames, block_frames, overlap)
    counts = [
        sum(start <= frame < start + block_frames for start in starts)
        for frame in range(num_frames)
    ]

    def denoise(
        z: Float[Array, " batch *shape"], log_snr: Float[Array, " batch *frames"], *condition
    ) -> Float[Array, " batch *shape"]:
        rows = len(z) * len(starts)
        padded = -(-rows // multiple) * multiple

        def pad(a):  # with copies of rows, whose estimates are dropped
            return a if padded == rows else a[jnp.arange(padded) % rows]

        def in_blocks(a):
            blocks = [a[:, start : start + block_frames] for start in starts]
            return pad(jnp.stack(blocks, axis=1).reshape(rows, block_frames, *a.shape[2:]))

        def repeated(a):
            return pad(jnp.repeat(a, len(starts), axis=0))

        levels = repeated(log_snr) if log_snr.ndim == 1 else in_blocks(log_snr)
        x = denoiser(distribute(in_blocks(z)), levels, *jax.tree.map(repeated, condition))
        x = x[:rows].reshape(len(z), len(starts), block_frames, *z.shape[2:])
        total = jnp.zeros(z.shape, x.dtype)
        for block, start in enumerate(starts):  # in a fixed order: the same sum on every device
            total = total.at[:, start : start + block_frames].add(x[:, block])
        return total / jnp.asarray(counts, x.dtype).reshape(-1, *[1] * (z.ndim - 2))

    return denoise
