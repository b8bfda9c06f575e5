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

REMAT = ("none", *_REMAT_POLICIES)  # in order of recomputation
SPATIAL_ATTENTION = ("auto", "whole", "tiles")
DTYPES = ("float32", "bfloat16")
# Up to this number of tokens per frame, saving attention weights on a CPU is faster than
# recomputing them: saving makes a training step 2 % faster at 36 tokens, and 2 % slower at 64.
_TOKENS_TO_SAVE = 36


class SpaceTimeUNet(nn.Module):
    """A U-Net over [batch, frames, height, width, channels], factorised over space and time.

    The fields are those of config.model; vdm/config.py has their defaults. The output is a
    prediction of the training target (eps, x or v), same shape as the input.

    Attributes:
      base_channels: channels at full resolution, before the first multiplier.
      channel_multipliers: channels of each resolution in units of base_channels. Each resolution
        has half the height and width of the previous one.
      blocks_per_resolution: number of residual blocks per resolution of the encoder; the decoder
        has one more.
      attention_resolutions: heights of feature maps, in patches, at which spatial and temporal
        attention follow each block, except the second of the two middle blocks.
      head_dim: width of an attention head.
      embedding_dim: width of the conditioning embedding.
      embedding_layers: depth of the conditioning MLP.
      dropout: dropout rate of residual blocks.
      num_classes: number of labels; 0 for no label condition.
      text_width: width of a token vector; 0 for no text condition.
      action_width: numbers per action of a frame; 0 for no actions.
      condition_dropout: rate at which training drops the condition.
      guidance_weights: (first, last) weight of classifier-free guidance, if the weight is an input
        of the network; () otherwise.
      film: whether the embedding scales and shifts (FiLM) instead of being added.
      max_relative_distance: largest temporal distance with its own embedding, in frames.
      relative_position_scale: standard deviation of relative position embeddings at
        initialisation.
      attention_bias: whether the projections of queries, keys and values have biases.
      spatial_attention: 'whole' saves all weights for the backward pass; 'tiles' recomputes them in
        tiles, which is faster on CPUs for frames of more than 36 tokens; 'auto' is 'tiles' in that
        case, else 'whole'.
      narrow_upsampling: whether the convolution after each upsampling has the channels of the finer
        resolution (cheaper) instead of the coarser one.
      patch_size: side in pixels of the patches that are folded into channels before the first
        convolution and unfolded after the last. 1 is the paper's network; 2 makes a small model
        several times cheaper.
      remat: rematerialisation (gradient checkpointing). 'none'; 'activations' saves the results of
        convolutions and recomputes 10 to 20 % of the forward pass; 'blocks' saves only the inputs
        of blocks. XLA on CPU ignores both.
      dtype: dtype of the computation, 'float32' or 'bfloat16'; parameters are float32.
      float32_ends: whether the first and the last convolution are in float32.
    """

    base_channels: int
    channel_multipliers: tuple[int, ...]
    blocks_per_resolution: int
    attention_resolutions: tuple[int, ...]
    head_dim: int
    embedding_dim: int
    embedding_layers: int
    dropout: float
    num_classes: int
    text_width: int
    action_width: int
    condition_dropout: float
    guidance_weights: tuple[float, ...]
    film: bool
    max_relative_distance: int
    relative_position_scale: float
    attention_bias: bool
    spatial_attention: str
    narrow_upsampling: bool
    patch_size: int
    remat: str
    dtype: str
    float32_ends: bool

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch frames height width channels"],
        log_snr: Float[Array, " batch *frames_and_images"],
        condition: Mapping[str, Array] | None = None,
        *,
        num_images: int = 0,
        frame_positions: Int[Array, " frames"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch frames height width channels"]:
        """Predicts the training target.

        Args:
          z: latents; the last num_images frames are independent images.
          log_snr: log-SNR in nats of each example, [batch], or of each frame and image,
            [batch, frames].
          condition: inputs of `ConditioningEmbedding`; None for the unconditional model.
          num_images: number of independent images.
          frame_positions: time of each frame, in frames; default 0, 1, ... Only differences matter;
            the positions of independent images are ignored.
          train: whether to apply dropout and condition_dropout, with the RNG stream 'dropout'.

        Returns:
          The prediction, float32, same shape as z.

        Raises:
          ValueError: the U-Net's total downsampling does not divide height and width.
        """
        total_stride = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        if z.shape[2] % total_stride or z.shape[3] % total_stride:
            raise ValueError(
                f"frames of {z.shape[2]}x{z.shape[3]} pixels are not divisible by {total_stride}, "
                "the product of the patch size and all downsampling"
            )
        dtype = jnp.dtype(self.dtype)
        end_dtype = jnp.dtype(jnp.float32) if self.float32_ends else dtype
        total_frames = z.shape[1]
        num_frames = total_frames - num_images
        if frame_positions is None:
            frame_positions = jnp.arange(total_frames)
        mask = independent_images_mask(num_frames, num_images)
        embedding = ConditioningEmbedding(
            features=self.embedding_dim,
            num_layers=self.embedding_layers,
            num_classes=self.num_classes,
            text_width=self.text_width,
            action_width=self.action_width,
            condition_dropout=self.condition_dropout,
            guidance_weights=self.guidance_weights,
            dtype=dtype,
            name="conditioning",
        )(log_snr, condition or {}, num_frames=num_frames, num_images=num_images, train=train)

        block_class = SpaceTimeBlock
        if self.remat != "none":
            block_class = nn.remat(SpaceTimeBlock, policy=_REMAT_POLICIES[self.remat])

        def block(h, features, name, attend=True):
            module = block_class(
                features=features,
                attention=attend and h.shape[2] in self.attention_resolutions,
                head_dim=self.head_dim,
                max_relative_distance=self.max_relative_distance,
                relative_position_scale=self.relative_position_scale,
                attention_bias=self.attention_bias,
                attention_in_tiles=self._in_tiles(h.shape[2] * h.shape[3]),
                dropout=self.dropout,
                film=self.film,
                deterministic=not train,
                dtype=dtype,
                name=name,
            )
            return module(h, embedding, frame_positions, mask)

        channels = [self.base_channels * multiplier for multiplier in self.channel_multipliers]
        h = FrameConv(self.base_channels, dtype=end_dtype, name="conv_in")(
            space_to_depth(z, self.patch_size)
        ).astype(dtype)
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
                kept = channels[level - 1 if self.narrow_upsampling else level]
                h = Upsample(features=kept, dtype=dtype, name=f"upsample_{level}")(h)

        h = FrameGroupNorm(swish=True, dtype=end_dtype, name="norm_out")(h)
        out_features = z.shape[-1] * self.patch_size**2
        h = FrameConv(out_features, zero_init=True, dtype=end_dtype, name="conv_out")(h)
        return depth_to_space(h.astype(jnp.float32), self.patch_size)

    def _in_tiles(self, tokens: int) -> bool:
        if self.spatial_attention == "auto":
            return jax.default_backend() == "cpu" and tokens > _TOKENS_TO_SAVE
        return self.spatial_attention == "tiles"


def space_to_depth(
    z: Float[Array, "batch frames height width channels"], patch_size: int
) -> Float[Array, "batch frames out_height out_width out_channels"]:
    """Folds patches of patch_size x patch_size pixels into channels.

    Args:
      z: videos, whose height and width patch_size divides.
      patch_size: side of a patch in pixels.

    Returns:
      [batch, frames, height / patch_size, width / patch_size, channels * patch_size^2].
    """
    batch, frames, height, width, channels = z.shape
    p = patch_size
    z = z.reshape(batch, frames, height // p, p, width // p, p, channels)
    return z.transpose(0, 1, 2, 4, 3, 5, 6).reshape(
        batch, frames, height // p, width // p, p * p * channels
    )


def depth_to_space(
    h: Float[Array, "batch frames height width channels"], patch_size: int
) -> Float[Array, "batch frames out_height out_width out_channels"]:
    """Unfolds channels into patches of pixels: the inverse of `space_to_depth`.

    Args:
      h: feature maps, whose channels patch_size^2 divides.
      patch_size: side of a patch in pixels.

    Returns:
      [batch, frames, height * patch_size, width * patch_size, channels / patch_size^2].
    """
    batch, frames, height, width, channels = h.shape
    p = patch_size
    h = h.reshape(batch, frames, height, width, p, p, channels // p**2)
    return h.transpose(0, 1, 2, 4, 3, 5, 6).reshape(
        batch, frames, height * p, width * p, channels // p**2
    )
