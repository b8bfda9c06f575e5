"""The space-time U-Net of Video Diffusion Models (section 3 and appendix A)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vdm.models.attention import independent_images_mask
from vdm.models.blocks import Downsample, SpaceTimeBlock, Upsample
from vdm.models.convolution import CONVOLUTION, FrameConv
from vdm.models.embeddings import ConditioningEmbedding
from vdm.models.norm import FrameGroupNorm

_REMAT_POLICIES = {
    "activations": jax.checkpoint_policies.save_only_these_names(CONVOLUTION),
    "blocks": jax.checkpoint_policies.nothing_saveable,
}

REMAT = ("none", *_REMAT_POLICIES)  # from the least recomputation to the most
DTYPES = ("float32", "bfloat16")


class SpaceTimeUNet(nn.Module):
    """A U-Net over [batch, frames, height, width, channels], factorised over space and time.

    Its output has the shape of its input and is whatever the training target makes it: eps, x or v.

    Attributes:
      base_channels: channels at full resolution, before the first multiplier.
      channel_multipliers: channels of each resolution over base_channels; height and width halve
        from one to the next.
      blocks_per_resolution: residual blocks on the way down; one more on the way up.
      attention_resolutions: heights at which blocks are followed by attention.
      head_dim: width of an attention head.
      embedding_dim: width of the conditioning embedding.
      embedding_layers: depth of its MLP.
      dropout: rate in residual blocks.
      num_classes: of the label condition; 0 for none.
      text_width: width of the text condition's token vectors; 0 for none.
      condition_dropout: rate at which training drops the condition.
      film: the embedding scales and shifts (FiLM) instead of being added.
      max_relative_distance: of temporal attention, in frames.
      patch_size: pixels of p x p patches become channels before the first convolution and pixels
        again after the last (not in the paper: 1 is its network), which makes small models on
        slow machines several times cheaper.
      remat: what the backward pass computes again instead of keeping it: 'none'; 'activations',
        all but the results of convolutions, at a tenth of the forward pass's arithmetic or two;
        'blocks', all but the inputs of blocks. XLA for CPUs obeys neither.
      dtype: of the computation, 'float32' or 'bfloat16'; parameters are always float32.
    """

    base_channels: int
    channel_multipliers: tuple[int, ...]
    blocks_per_resolution: int
    attention_resolutions: tuple[int, ...]
    head_dim: int
    embedding_dim: int
    embedding_layers: int
    dropout: float = 0.0
    num_classes: int = 0
    text_width: int = 0
    condition_dropout: float = 0.1
    film: bool = False
    max_relative_distance: int = 16
    patch_size: int = 1
    remat: str = "none"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch frames height width channels"],
        log_snr: Float[Array, " batch"],
        condition: Mapping[str, Array] | None = None,
        *,
        num_images: int = 0,
        frame_positions: Int[Array, " frames"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch frames height width channels"]:
        """Predicts the target from the latent.

        Args:
          z: latents; the last num_images frames are independent images.
          log_snr: of each example, in nats.
          condition: what `ConditioningEmbedding` reads; None for the unconditional model.
          num_images: how many of the frames are independent images.
          frame_positions: time of each frame in frames, by default 0, 1, ...; only differences
            matter, those of independent images not at all.
          train: dropout, of activations and conditions, with the rng stream 'dropout'.

        Returns:
          The prediction, float32, shaped as z.

        Raises:
          ValueError: height or width is not divisible by the U-Net's total downsampling.
        """
        total_stride = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        if z.shape[2] % total_stride or z.shape[3] % total_stride:
            raise ValueError(
                f"frames of {z.shape[2]}x{z.shape[3]} pixels are not divisible by {total_stride}, "
                "the product of the patch size and all downsampling"
            )
        dtype = jnp.dtype(self.dtype)
        total_frames = z.shape[1]
        num_frames = total_frames - num_images
        if frame_positions is None:
            frame_positions = jnp.arange(total_frames)
        mask = independent_images_mask(num_frames, num_images)
        embedding = ConditioningEmbedding(
            self.embedding_dim,
            self.embedding_layers,
            self.num_classes,
            self.text_width,
            self.condition_dropout,
            dtype,
            name="conditioning",
        )(log_snr, condition or {}, num_frames=num_frames, num_images=num_images, train=train)

        block_class = SpaceTimeBlock
        if self.remat != "none":
            block_class = nn.remat(SpaceTimeBlock, policy=_REMAT_POLICIES[self.remat])

        def block(h, features, name, attend=True):
            module = block_class(
                features,
                attend and h.shape[2] in self.attention_resolutions,
                self.head_dim,
                self.max_relative_distance,
                self.dropout,
                self.film,
                not train,
                dtype,
                name=name,
            )
            return module(h, embedding, frame_positions, mask)

        channels = [self.base_channels * multiplier for multiplier in self.channel_multipliers]
        h = FrameConv(self.base_channels, dtype=dtype, name="conv_in")(
            space_to_depth(z, self.patch_size)
        )
        skips = [h]
        for level, features in enumerate(channels):
            for index in range(self.blocks_per_resolution):
                h = block(h, features, f"down_{level}_{index}")
                skips.append(h)
            if level + 1 < len(channels):
                h = Downsample(dtype=dtype, name=f"downsample_{level}")(h)
                skips.append(h)

        h = block(h, channels[-1], "middle_0")
        h = block(h, channels[-1], "middle_1", attend=False)

        for level, features in reversed(list(enumerate(channels))):
            for index in range(self.blocks_per_resolution + 1):
                h = block(
                    jnp.concatenate([h, skips.pop()], axis=-1), features, f"up_{level}_{index}"
                )
            if level:
                h = Upsample(channels[level - 1], dtype, name=f"upsample_{level}")(h)

        h = FrameGroupNorm(swish=True, dtype=dtype, name="norm_out")(h)
        out_features = z.shape[-1] * self.patch_size**2
        h = FrameConv(out_features, zero_init=True, dtype=dtype, name="conv_out")(h)
        return depth_to_space(h.astype(jnp.float32), self.patch_size)


def space_to_depth(
    z: Float[Array, "batch frames height width channels"], patch_size: int
) -> Float[Array, "batch frames out_height out_width out_channels"]:
    """Patches of patch_size x patch_size pixels to channels."""
    batch, frames, height, width, channels = z.shape
    p = patch_size
    z = z.reshape(batch, frames, height // p, p, width // p, p, channels)
    return z.transpose(0, 1, 2, 4, 3, 5, 6).reshape(
        batch, frames, height // p, width // p, p * p * channels
    )


def depth_to_space(
    h: Float[Array, "batch frames height width channels"], patch_size: int
) -> Float[Array, "batch frames out_height out_width out_channels"]:
    """The inverse of `space_to_depth`."""
    batch, frames, height, width, channels = h.shape
    p = patch_size
    h = h.reshape(batch, frames, height, width, p, p, channels // p**2)
    return h.transpose(0, 1, 2, 4, 3, 5, 6).reshape(
        batch, frames, height * p, width * p, channels // p**2
    )
