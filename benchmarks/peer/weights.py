"""From the peer's state dict to the parameters of its Flax twin."""

from collections.abc import Mapping

import numpy as np

from peer.unet3d import HEAD_DIM, HEADS


def to_flax(state: Mapping[str, np.ndarray]) -> dict:
    """The tree of parameters of `unet3d.Unet3D` from arrays named as by the peer's Unet3D.

    Raises:
      ValueError: an array has no place in the twin.
    """
    tree: dict = {}
    for name, value in state.items():
        if name.endswith("rotary_emb.freqs"):
            continue  # not trained
        for path, leaf in _place(name.split("."), np.asarray(value)):
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = leaf
    return tree


def _place(name, value):
    """(path, array) of each parameter of the twin that an array of the peer becomes."""
    if name[0] == "time_rel_pos_bias":
        return [(("relative_position_bias",), value)]
    if name[0] == "time_mlp":
        layer = {"1": "dense_0", "3": "dense_1"}[name[1]]
        return [(("time_mlp", layer, _leaf(name)), _dense(value))]
    if name[0] == "init_conv":
        return [(("init_conv", _leaf(name)), _conv(value))]
    if name[0] == "final_conv" and name[1] == "1":
        return [(("final_conv_1", _leaf(name)), _dense(value))]
    depth = {"downs": 3, "ups": 3, "final_conv": 2}.get(name[0], 1)
    module, rest = "_".join(name[:depth]), name[depth:]
    if rest[0] in ("block1", "block2"):
        which = rest[0][-1]
        if rest[1] == "norm":
            return [((module, f"norm_{which}", "gamma"), value.reshape(-1))]
        return [((module, f"proj_{which}", _leaf(rest)), _conv(value))]
    if rest[0] == "res_conv":
        return [((module, "res_conv", _leaf(rest)), _dense(value))]
    if rest[0] == "mlp":
        return [((module, "mlp", _leaf(rest)), _dense(value))]
    if rest[0] == "fn" and rest[-1] == "gamma":
        return [((module, "gamma"), value.reshape(-1))]
    if rest[0] == "fn":
        return [((module, *path), leaf) for path, leaf in _attention(rest, value)]
    if len(rest) == 1:  # a change of resolution
        # torch keeps a transposed convolution as [in, out], an ordinary one as [out, in]
        transposed = name[0] == "ups"
        return [((module, _leaf(rest)), _conv(value, transposed=transposed))]
    raise ValueError(f"the peer's parameter {'.'.join(name)} has no place in the twin")


def _attention(rest, value):
    linear = value.ndim == 4 or rest[-1] == "bias"  # 1x1 convolutions, and the only bias
    if rest[-1] == "bias":
        return [(("out_bias",), value)]
    matrix = value.reshape(value.shape[:2]).T
    if rest[-2] == "to_out":
        return [(("out",), matrix if linear else matrix.reshape(HEADS, HEAD_DIM, -1))]
    parts = np.split(matrix, 3, axis=1)
    if not linear:
        parts = [part.reshape(-1, HEADS, HEAD_DIM).transpose(1, 0, 2) for part in parts]
    return [((name,), part) for name, part in zip(("query", "key", "value"), parts, strict=True)]


def _leaf(name):
    return {"weight": "kernel", "bias": "bias"}[name[-1]]


def _dense(value):
    return value if value.ndim == 1 else value.reshape(value.shape[:2]).T


def _conv(value, transposed=False):
    if value.ndim == 1:
        return value
    return value[:, :, 0].transpose((2, 3, 0, 1) if transposed else (2, 3, 1, 0))
