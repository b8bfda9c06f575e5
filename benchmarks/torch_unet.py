"""SpaceTimeUNet in idiomatic PyTorch, for unconditional models.

Folds frames into the batch. Uses channels_last convolutions, F.group_norm, and
F.scaled_dot_product_attention for spatial attention. Temporal attention is written out, because it
has relative positions. Parameters have the same values and paths as in the Flax module.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vdm.models.embeddings import _SINUSOID_LONGEST_PERIOD, _SINUSOID_RANGE

_NORM_EPSILON = 1e-6


class TorchSpaceTimeUNet(nn.Module):
    """(z [batch, frames, height, width, channels], log_snr [batch]) -> prediction, shaped like z.

    Args:
      model: config.model of an unconditional network with patch_size 1.
      params: flattened parameters of the Flax module: {"conv_in/conv/kernel": array, ...}.
    """

    def __init__(self, model, params):
        super().__init__()
        self.model = model
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(_to_torch(name, value)) for name, value in params.items()}
        )

    def forward(self, z, log_snr, num_images=0):
        model = self.model
        batch, frames, height, width, channels = z.shape
        shape = batch, frames
        mask = _mask(frames, num_images, z.device)
        embedding = self._embedding(log_snr)
        h = z.reshape(-1, height, width, channels).permute(0, 3, 1, 2)  # channels_last in memory
        h = self._conv(h, "conv_in")
        skips = [h]
        widths = [model.base_channels * multiplier for multiplier in model.channel_multipliers]

        def block(h, name, attend=True):
            h = self._residual(h, embedding, shape, f"{name}/residual")
            if attend and h.shape[2] in model.attention_resolutions:
                h = self._spatial(h, f"{name}/spatial_attention")
                h = self._temporal(h, shape, mask, f"{name}/temporal_attention")
            return h

        for level in range(len(widths)):
            for index in range(model.blocks_per_resolution):
                h = block(h, f"down_{level}_{index}")
                skips.append(h)
            if level + 1 < len(widths):
                # 'SAME' padding at stride 2 pads the far side only.
                h = self._conv(functional.pad(h, (0, 1, 0, 1)), f"downsample_{level}/conv", 2, 0)
                skips.append(h)
        h = block(h, "middle_0")
        h = block(h, "middle_1", attend=False)
        for level in reversed(range(len(widths))):
            for index in range(model.blocks_per_resolution + 1):
                h = block(torch.cat([h, skips.pop()], 1), f"up_{level}_{index}")
            if level:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
                h = self._conv(h, f"upsample_{level}/conv")
        h = self._conv(functional.silu(self._norm(h, "norm_out")), "conv_out")
        return h.permute(0, 2, 3, 1).reshape(z.shape).float()

    def _embedding(self, log_snr):
        half = self.model.embedding_dim // 2
        squashed = torch.atan(torch.exp(-0.5 * log_snr)) / (0.5 * math.pi)
        exponents = torch.arange(half, device=log_snr.device) / half
        angles = _SINUSOID_RANGE * squashed[:, None] * _SINUSOID_LONGEST_PERIOD**-exponents
        h = torch.cat([angles.sin(), angles.cos()], -1)
        for layer in range(self.model.embedding_layers):
            h = functional.silu(self._dense(h, f"conditioning/dense_{layer}"))
        return h

    def _residual(self, h, embedding, shape, name):
        skip = h
        if f"{name}/skip/kernel" in self.weights:
            skip = self._dense(h.permute(0, 2, 3, 1), f"{name}/skip").permute(0, 3, 1, 2)
        h = self._conv(functional.silu(self._norm(h, f"{name}/norm_1")), f"{name}/conv_1")
        embedded = self._dense(embedding, f"{name}/embedding").repeat_interleave(shape[1], 0)
        embedded = embedded[:, :, None, None]
        if self.model.film:
            scale, shift = embedded.chunk(2, 1)
            h = self._norm(h, f"{name}/norm_2") * (1 + scale) + shift
        else:
            h = self._norm(h + embedded, f"{name}/norm_2")
        h = functional.dropout(functional.silu(h), self.model.dropout, self.training)
        return skip + self._conv(h, f"{name}/conv_2")

    def _spatial(self, h, name):
        tokens = self._norm(h, f"{name}/norm").permute(0, 2, 3, 1).flatten(1, 2)
        query, key, value = self._query_key_value(tokens, name)
        attended = functional.scaled_dot_product_attention(query, key, value)
        update = self._dense(attended.transpose(1, 2).flatten(2), f"{name}/out/projection")
        return h + update.unflatten(1, h.shape[2:]).permute(0, 3, 1, 2)

    def _temporal(self, h, shape, mask, name):
        batch, frames = shape
        limit = self.model.max_relative_distance
        position = torch.arange(frames, device=h.device)
        distance = (position[None] - position[:, None]).clamp(-limit, limit) + limit
        relative_key = self.weights[f"{name}/relative_key"][distance]
        relative_value = self.weights[f"{name}/relative_value"][distance]
        tokens = self._norm(h, f"{name}/norm").permute(0, 2, 3, 1)
        pixels = tokens.shape[1:3]
        tokens = tokens.unflatten(0, (batch, frames)).permute(0, 2, 3, 1, 4).flatten(0, 2)
        query, key, value = self._query_key_value(tokens, name)
        query = query * self.model.head_dim**-0.5
        logits = query @ key.transpose(-1, -2)
        logits = logits + torch.einsum("nhqd,qkd->nhqk", query, relative_key.to(query.dtype))
        weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1)
        relative_value = relative_value.to(weights.dtype)
        attended = weights @ value + torch.einsum("nhqk,qkd->nhqd", weights, relative_value)
        update = self._dense(attended.transpose(1, 2).flatten(2), f"{name}/out/projection")
        update = update.unflatten(0, (batch, *pixels)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return h + update

    def _query_key_value(self, tokens, name):
        projected = self._dense(tokens, f"{name}/qkv/projection")
        return (
            part.unflatten(-1, (-1, self.model.head_dim)).transpose(1, 2)
            for part in projected.chunk(3, -1)
        )

    def _norm(self, h, name):
        channels = h.shape[1]
        groups = math.gcd(32, channels, max(1, channels // 4))  # as vdm/models/norm.py
        scale, bias = (self.weights[f"{name}/group_norm/{part}"] for part in ("scale", "bias"))
        return functional.group_norm(h, groups, scale, bias, _NORM_EPSILON)

    def _conv(self, h, name, stride=1, padding=1):
        kernel, bias = (self.weights[f"{name}/conv/{part}"] for part in ("kernel", "bias"))
        return functional.conv2d(h, kernel, bias, stride, padding)

    def _dense(self, h, name):
        kernel, bias = self.weights[f"{name}/kernel"], self.weights.get(f"{name}/bias")
        return functional.linear(h, kernel, bias)


def _to_torch(name, value):
    """Transposes kernels to PyTorch's layout: [out, in, height, width] or [out, in]."""
    tensor = torch.tensor(np.asarray(value))
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return tensor.T.contiguous() if name.endswith("kernel") else tensor


def _mask(frames, num_images, device):
    is_video = torch.arange(frames, device=device) < frames - num_images
    return (is_video[:, None] & is_video[None]) | torch.eye(frames, dtype=torch.bool, device=device)
