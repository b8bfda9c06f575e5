"""Exported weights and their configuration survive a round trip."""

import errno
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import vdm
from tests.compiled import init_params
from vdm.exported import export, load_exported, load_exported_config
from vdm.training.compatibility import check_same_model


def test_round_trip(tmp_path, tiny_config):
    params = jax.tree.map(np.asarray, init_params(tiny_config))
    path = tmp_path / "model.safetensors"
    export(path, params, tiny_config, 123)
    jax.tree.map(np.testing.assert_array_equal, load_exported(path), params)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it, too
    saved, step = load_exported_config(path)
    assert step == 123 and saved == json.loads(tiny_config.to_json_best_effort())
    check_same_model(tiny_config, saved, path)
    tiny_config.model.base_channels = 48
    tiny_config.diffusion.target = "x"
    message = r"target is .v., .* has .x.; its config\.model\.base_channels is 16, .* has 48"
    with pytest.raises(ValueError, match=message):
        check_same_model(tiny_config, saved, path)


def test_names_files_that_are_not_exports(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*missing"):
        load_exported(tmp_path / "missing")
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(ValueError, match="junk is not a safetensors file"):
        load_exported_config(tmp_path / "junk")


def test_a_file_without_permission_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_text("junk")

    def refuses(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "open", refuses)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*model\.safetensors'"):
        load_exported_config(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["~no.such.user/model.safetensors", "~model.safetensors"])
def test_a_tilde_without_its_user_is_part_of_the_name(name, tmp_path, monkeypatch, exported):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{name} does not exist")):
        vdm.load(name)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    exported.rename(path)
    assert vdm.load(name).step == 3


@pytest.fixture
def exported(tmp_path, tiny_config):
    path = tmp_path / "model.safetensors"
    export(path, jax.tree.map(np.asarray, init_params(tiny_config)), tiny_config, 3)
    return path


def _rewrite(path, change):
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def _edit(metadata, field, value):
    config = json.loads(metadata["config"])
    config["model"][field] = value
    metadata["config"] = json.dumps(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("conv_in/conv/bias"), "has no tensor conv_in/conv/bias"),
        (lambda t, m: t.update({"more": t["conv_in/conv/bias"]}), "has a tensor more"),
        (
            lambda t, m: t.update({"conv_in/conv/bias": t["conv_in/conv/bias"][1:]}),
            r"bias of shape \(15,\)",
        ),
        (lambda t, m: t.update({"a.b": t.pop("conv_in/conv/bias")}), "has a tensor a.b"),
        (lambda t, m: t["conv_in/conv/bias"].__iadd__(1), "do not match its digest"),
        (lambda t, m: m.update(step="4"), "do not match its digest"),
        (lambda t, m: m.update(step="four"), "its configuration or step is no JSON"),
        (lambda t, m: m.update(config="{"), "its configuration or step is no JSON"),
        (lambda t, m: m.update(config="{}"), "holds no configuration"),
        (lambda t, m: m.update(config=m["config"].replace("16", "32")), "conditioning.* of shape"),
        (lambda t, m: _edit(m, "base_channels", 0), "fit no network: "),
        (lambda t, m: _edit(m, "channel_multipliers", []), "fit no network: "),
        (lambda t, m: _edit(m, "head_dim", None), "config.model.head_dim None"),
        (
            lambda t, m: t.update({"conv_in/conv/bias": t["conv_in/conv/bias"].astype(np.int32)}),
            "bias of type I32, and needs F32",
        ),
        (lambda t, m: m.pop("config"), "--mode=export did not write it"),
    ],
)
def test_names_what_is_wrong_in_a_changed_file(exported, change, message):
    _rewrite(exported, change)
    with pytest.raises(ValueError, match=f"model.safetensors .*({message})"):
        load_exported(exported)


def test_reads_files_from_before_the_digest(exported):
    expected = load_exported(exported)
    _rewrite(exported, lambda tensors, metadata: metadata.pop("digest"))
    jax.tree.map(np.testing.assert_array_equal, load_exported(exported), expected)


def test_a_full_disk_keeps_the_file_before(exported):
    code = """if True:
        import resource, sys
        import numpy as np
        from vdm.exported import export, load_exported_config
        from vdm.configuration.stored import from_record
        from pathlib import Path
        path = Path(sys.argv[1])
        config = from_record(load_exported_config(path)[0], path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        export(path, {"conv": np.zeros(1000)}, config, 4)
    """
    before = exported.read_bytes()
    done = subprocess.run([sys.executable, "-c", code, exported], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.match(
        r"OSError: .*model\.safetensors cannot be written: ", done.stderr.split("\n")[-2]
    )
    assert exported.read_bytes() == before and len(list(exported.parent.iterdir())) == 1


def test_no_flipped_bit_is_loaded(exported):
    rng, content = np.random.default_rng(0), exported.read_bytes()
    for position in rng.integers(8 * len(content), size=40):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        exported.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            load_exported(exported)
