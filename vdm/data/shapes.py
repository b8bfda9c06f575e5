"""Shapes and dtypes of a batch, and the frame rate of its videos, without arrays."""

import jax
import jax.numpy as jnp
import ml_collections


def frame_rate_of(config: ml_collections.ConfigDict) -> float:
    """Returns the frames per second of a model's videos; 8 without config.data.frame_rate."""
    return config.data.frame_rate / config.data.frameskip or 8.0


def batch_shapes(config: ml_collections.ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch: videos, independent images and conditions."""
    data = config.data
    frame = (data.resolution, data.resolution, data.channels)
    batch = {"video": jax.ShapeDtypeStruct((size, data.frames, *frame), jnp.float32)}
    condition = condition_shapes(config, size)
    if data.num_images:
        images = (size, data.num_images)
        described = {} if data.condition == "action" else condition
        batch["images"] = jax.ShapeDtypeStruct((*images, *frame), jnp.float32)
        condition |= {
            f"image_{name}": jax.ShapeDtypeStruct((*images, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in described.items()
        }
    return batch | condition


def condition_shapes(
    config: ml_collections.ConfigDict, size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the conditions of `size` videos."""
    data = config.data
    if data.condition == "label":
        return {"label": jax.ShapeDtypeStruct((size,), jnp.int32)}
    if data.condition == "text":
        tokens = (size, data.text_tokens)
        return {
            "text": jax.ShapeDtypeStruct((*tokens, config.model.text_width), jnp.float32),
            "text_mask": jax.ShapeDtypeStruct(tokens, jnp.bool_),
        }
    if data.condition == "action":
        frames = (size, data.frames)
        return {
            "action": jax.ShapeDtypeStruct((*frames, config.model.action_width), jnp.float32),
            "action_mask": jax.ShapeDtypeStruct(frames, jnp.bool_),
        }
    return {}
