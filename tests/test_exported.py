"""Exported weights and their configuration survive a round trip."""

import json

import jax
import numpy as np
import pytest

from tests.compiled import init_params
from vdm.exported import export, load_exported, load_exported_config
from vdm.training.checkpoints import check_same_model


def test_round_trip(tmp_path, tiny_config):
    params = jax.tree.map(np.asarray, init_params(tiny_config))
    path = tmp_path / "model.safetensors"
    export(path, params, tiny_config, 123)
    jax.tree.map(np.testing.assert_array_equal, load_exported(path), params)
    saved, step = load_exported_config(path)
    assert step == 123 and saved == json.loads(tiny_config.to_json_best_effort())
    check_same_model(tiny_config, saved, path)
    tiny_config.model.base_channels = 48
    with pytest.raises(ValueError, match=r"config\.model\.base_channels is 16, .* has 48"):
        check_same_model(tiny_config, saved, path)


def test_names_files_that_are_not_exports(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*missing"):
        load_exported(tmp_path / "missing")
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(ValueError, match="junk is not a safetensors file"):
        load_exported_config(tmp_path / "junk")
