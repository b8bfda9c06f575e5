"""Conditioning embeddings: log-SNR, label, caption, actions and guidance weight."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

# Maps [0, 1] to the range of DDPM's integer time steps, which the sinusoid frequencies assume.
_SINUSOID_RANGE = 1000.0
_SINUSOID_LONGEST_PERIOD = 10000.0


def sinusoidal_log_snr(
    log_snr: Float[Array, " batch *frames"], width: int
) -> Float[Array, "batch *frames width"]:
    """Sinusoidal embedding of atan(exp(-log_snr / 2)) / (pi / 2), from 0 (clean) to 1 (noise).

    The log-SNR is in nats. The width must be even.
    """
    return _sinusoids(jnp.arctan(jnp.exp(-0.5 * log_snr)) / (0.5 * jnp.pi), width)


def _sinusoids(
    fraction: Float[Array, " batch *frames"], width: int
) -> Float[Array, "batch *frames width"]:
    """Sinusoidal embedding of numbers from 0 to 1."""
    exponents = jnp.arange(width // 2, dtype=jnp.float32) / (width // 2)
    angles = _SINUSOID_RANGE * fraction[..., None] * _SINUSOID_LONGEST_PERIOD**-exponents
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TextPooling(nn.Module):
    """Attention pooling of token vectors, with a learned query (section 4.3).

    The number of heads must divide the features.
    """

    features: int
    num_heads: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, text: Float[Array, "... tokens width"], text_mask: Bool[Array, "... tokens"]
    ) -> Float[Array, "... features"]:
        """Returns the pooled embedding, or zeros ('no condition') where all tokens are masked."""
        head_dim = self.features // self.num_heads
        tokens = nn.LayerNorm(dtype=self.dtype, name="norm")(text)
        keys, values = jnp.split(
            nn.DenseGeneral((self.num_heads, 2 * head_dim), dtype=self.dtype, name="keys_values")(
                tokens
            ),
            2,
            axis=-1,
        )
        shape = (self.num_heads, head_dim)
        query = self.param("query", nn.initializers.normal(1.0), shape, jnp.float32)
        logits = jnp.einsum("hd,...thd->...ht", query.astype(self.dtype), keys) * head_dim**-0.5
        logits = jnp.where(text_mask[..., None, :], logits.astype(jnp.float32), -1e9)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        pooled = jnp.einsum("...ht,...thd->...hd", weights, values)
        pooled = nn.DenseGeneral(self.features, axis=(-2, -1), dtype=self.dtype, name="out")(pooled)
        return jnp.where(text_mask.any(-1, keepdims=True), pooled, 0)


class ConditioningEmbedding(nn.Module):
    """An MLP of the embedded log-SNR and condition c, with one output vector per frame.

    num_classes, text_width and action_width are 0 if there is no such condition. With probability
    condition_dropout, training replaces a condition with zeros, which trains the unconditional
    model of classifier-free guidance; all actions of a clip are dropped together. A frame's action
    embedding is computed from its action and from the sum of earlier actions divided by
    sqrt(num_frames).

    guidance_weights = (first, last) makes the weight of classifier-free guidance an input (Meng et
    al. 2023, section 3.1). Its projection is initialised to zero, so that a student starts as its
    teacher. () means no such input.
    """

    features: int
    num_layers: int
    num_classes: int
    text_width: int
    action_width: int
    condition_dropout: float
    dtype: DTypeLike
    guidance_weights: tuple[float, ...] = ()

    @nn.compact
    def __call__(
        self,
        log_snr: Float[Array, " batch *frames_and_images"],
        condition: Mapping[str, Array],
        *,
        num_frames: int,
        num_images: int,
        train: bool,
    ) -> Float[Array, "batch frames_or_one features"]:
        """Embeds the video's condition for each of its frames, and each image's own condition.

        The log-SNR is one per example, [batch], or one per frame and image, [batch, frames +
        images].

        The condition has `label` [batch], or `text` [batch, tokens, width] and `text_mask`
        [batch, tokens], or `action` [batch, frames, width] and `action_mask` [batch, frames].
        Independent images have `image_label` [batch, images], or `image_text` and
        `image_text_mask`; they have no actions. Zeros replace the embedding of a missing entry, of
        label -1, of a text with all tokens masked and of a masked action. `train` applies
        condition_dropout. `guidance_weight` [batch] is clipped to the range guidance_weights;
        default 1.
        """
        batch, is_per_frame = log_snr.shape[0], log_snr.ndim == 2
        embedding = sinusoidal_log_snr(log_snr, self.features)
        if not is_per_frame:
            embedding = embedding[:, None]
        if self.guidance_weights:
            weight = condition.get("guidance_weight", jnp.ones(batch, log_snr.dtype))
            embedding += self._embed_guidance_weight(weight)[:, None]
        if self.num_classes or self.text_width:
            embedded = self._embed_conditions(batch, condition, num_images, train)
            embedding += _per_frame(embedded, num_frames) if is_per_frame else embedded
        if self.action_width:
            actions = self._embed_actions((batch, num_frames), condition, train)
            images = jnp.zeros((len(actions), num_images, self.features), actions.dtype)
            if not is_per_frame:
                embedding = _per_frame(embedding, num_frames)
            embedding += jnp.concatenate([actions, images], axis=1)
        for layer in range(self.num_layers):
            embedding = nn.Dense(self.features, dtype=self.dtype, name=f"dense_{layer}")(embedding)
            embedding = nn.swish(embedding)
        if self.action_width or is_per_frame:
            return embedding
        return _per_frame(embedding, num_frames)

    def _embed_guidance_weight(
        self, weight: Float[Array, " batch"]
    ) -> Float[Array, "batch features"]:
        first, last = self.guidance_weights
        fraction = jnp.clip((weight - first) / (last - first), 0.0, 1.0)
        return nn.Dense(
            self.features,
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="guidance_weight",
        )(_sinusoids(fraction, self.features))

    def _embed_conditions(
        self, batch: int, condition: Mapping[str, Array], num_images: int, train: bool
    ) -> Float[Array, "batch items features"]:
        embed = self._label_embedding() if self.num_classes else self._text_embedding()
        items = [embed(condition, prefix="", shape=(batch, 1))]
        if num_images:
            items.append(embed(condition, prefix="image_", shape=(batch, num_images)))
        embedded = jnp.concatenate(items, axis=1)
        return self._dropped(embedded, embedded.shape[:2], train)

    def _embed_actions(
        self, shape: tuple[int, int], condition: Mapping[str, Array], train: bool
    ) -> Float[Array, "batch frames features"]:
        action, action_mask = jnp.zeros((*shape, self.action_width)), jnp.zeros(shape, bool)
        if "action" in condition:
            action_mask = condition["action_mask"]
            action = jnp.where(action_mask[..., None], condition["action"], 0)
        # Actions are relative: the content of a frame depends on the sum of all earlier ones.
        sum_before = jnp.cumsum(action, axis=1) - action
        inputs = jnp.concatenate([action, sum_before * shape[1] ** -0.5], axis=-1)
        embedded = nn.Dense(self.features, dtype=self.dtype, name="action")(inputs)
        embedded = jnp.where(action_mask[..., None], embedded, 0)
        return self._dropped(embedded, (shape[0], 1), train)

    def _dropped(self, embedded: Array, shape: tuple[int, ...], train: bool) -> Array:
        """Applies condition_dropout, with one random number per element of `shape`."""
        if not (train and self.condition_dropout):
            return embedded
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.condition_dropout, shape)
        return jnp.where(keep[..., None], embedded, 0)

    def _label_embedding(self):
        table = nn.Embed(self.num_classes, self.features, dtype=self.dtype, name="label")

        def embed(condition, *, prefix, shape):
            if prefix + "label" not in condition:
                return table(jnp.zeros(shape, jnp.int32)) * 0
            label = condition[prefix + "label"].reshape(shape)
            return jnp.where(label[..., None] >= 0, table(jnp.maximum(label, 0)), 0)

        return embed

    def _text_embedding(self):
        pool = TextPooling(self.features, dtype=self.dtype, name="text")

        def embed(condition, *, prefix, shape):
            if prefix + "text" not in condition:
                text = jnp.zeros((*shape, 1, self.text_width), self.dtype)
                return pool(text, jnp.zeros((*shape, 1), bool))
            text, text_mask = condition[prefix + "text"], condition[prefix + "text_mask"]
            return pool(
                text.reshape(*shape, *text.shape[-2:]), text_mask.reshape(*shape, text.shape[-2])
            )

        return embed


def _per_frame(embedding: Array, num_frames: int) -> Array:
    """Repeats the first vector (the video's) for each frame; a single one is left to broadcast."""
    if embedding.shape[1] == 1:
        return embedding
    video, images = embedding[:, :1], embedding[:, 1:]
    return jnp.concatenate([jnp.repeat(video, num_frames, axis=1), images], axis=1)
