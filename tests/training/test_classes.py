"""A label keeps its class if class folders are added, removed or renamed after the training."""

import numpy as np
import pytest
from etils import epath

from tests.compiled import init_params
from vdm import main
from vdm.configuration.resolve import resolve
from vdm.configuration.stored import from_record, load_run_config, save_run_config
from vdm.data.datasets import make_data_set, with_classes
from vdm.data.folder.videos import open_folder
from vdm.exported import export, load_exported_config
from vdm.parallel.mesh import make_mesh
from vdm.preflight import check
from vdm.sampling.conditions import conditions
from vdm.training.loop import train
from vdm.training.warm_start import load_source

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _add(folder, name):
    """Writes a video of each split, whose colour is the number of letters in the class."""
    for split in ("train", "test"):
        (folder / split / name).mkdir(parents=True)
        video = np.full((1, 4, 8, 8, 1), len(name), np.uint8)
        np.savez(folder / split / name / "a.npz", video=video)


@pytest.fixture
def videos(tmp_path):
    for name in ("run", "walk"):
        _add(tmp_path / "videos", name)
    return tmp_path / "videos"


@pytest.fixture
def trained(videos, tmp_path, tiny_config):
    """The workdir of a run of two classes, and its configuration file."""
    tiny_config.data.update(name="folder", path=str(videos), condition="label", motion="any")
    tiny_config.model.num_classes = 2
    workdir = epath.Path(tmp_path / "run")
    checkpoint = workdir / "checkpoints" / "1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_CHECKPOINT_METADATA").write_text("{}")
    save_run_config(workdir, with_classes(tiny_config))
    file = tmp_path / "mine.py"
    file.write_text(
        "from vdm.configuration.stored import from_record\n"
        f"def get_config():\n    return from_record({tiny_config.to_dict()!r}, '')\n"
    )
    return workdir, str(file)


def _resolved(trained, with_file, **overrides):
    open_folder.cache_clear()
    workdir, file = trained
    return resolve(file if with_file else None, workdir, overrides)


@pytest.mark.parametrize("with_file", [False, True])
def test_a_label_keeps_its_class(trained, videos, tmp_path, monkeypatch, with_file):
    workdir, _ = trained
    (videos / "test" / "run").rename(tmp_path / "gone")
    (videos / "train" / "run").rename(tmp_path / "too")
    config = _resolved(trained, with_file)
    check(config, workdir, "train")
    for split in ("train", "test"):
        example = make_data_set(config, split).example(0)
        assert example["label"] == 1  # 'walk', of four letters
        assert round(255 * (float(example["video"].mean()) + 1) / 2) == 4
    assert conditions(config, range(2))["label"].tolist() == [1, 1]

    monkeypatch.setattr("vdm.training.checkpoints.load_ema", lambda *_: ({}, 1))
    monkeypatch.setattr("vdm.exported.parameter_shapes", lambda *_: {})
    main.export(config, workdir)
    record, _ = load_exported_config(workdir / "model.safetensors")
    assert from_record(record, "").data.classes == ("run", "walk")


@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize("mode", ["train", "sample"])
def test_another_class_is_refused(trained, videos, mode, with_file):
    """Renamed, the classes would be as many, and their numbers others."""
    workdir, _ = trained
    for split in ("train", "test"):
        (videos / split / "walk").rename(videos / split / "amble")
    message = r"has the class 'amble', and config\.data\.classes has 'run', 'walk': give"
    with pytest.raises(ValueError, match=message):
        check(_resolved(trained, with_file), workdir, mode)
    for split in ("train", "test"):
        (videos / split / "amble").rename(videos / split / "walk")
    check(_resolved(trained, with_file), workdir, mode)
    _add(videos, "jump")
    with pytest.raises(ValueError, match=message.replace("amble", "jump")):
        check(_resolved(trained, with_file), workdir, mode)


def test_other_names_of_classes_are_another_run(trained, videos):
    workdir, _ = trained
    config = _resolved(trained, True, **{"data.classes": "('walk', 'run')"})
    message = r"its config\.data\.classes is \('run', 'walk'\), and this .* has \('walk', 'run'\)"
    for mode in ("train", "sample"):
        with pytest.raises(ValueError, match=message):
            check(config, workdir, mode)
    for split in ("train", "test"):
        (videos / split / "walk").rename(videos / split / "amble")
    config = _resolved(trained, True, **{"data.classes": "()"})
    with pytest.raises(ValueError, match=r"and this configuration has \('amble', 'run'\)"):
        check(config, workdir, "train")
    with pytest.raises(ValueError, match=r"and this configuration has \('amble', 'run'\)"):
        train(config, workdir, preview=None)


def test_a_run_stores_its_classes_also_when_it_resumes(videos, tmp_path, tiny_config):
    tiny_config.data.update(name="folder", path=str(videos), condition="label")
    tiny_config.model.num_classes = 2
    for num_steps in (1, 2):
        tiny_config.training.num_steps = num_steps
        assert train(tiny_config, epath.Path(tmp_path), preview=None)
        assert load_run_config(tmp_path).data.classes == ("run", "walk")
        save_run_config(tmp_path, tiny_config)  # as before the field existed


def test_a_warm_start_from_other_classes_is_noted(tmp_path, tiny_config, capsys):
    """The embeddings of labels are copied by number, and training changes them."""
    tiny_config.data.update(condition="label", classes=("run", "walk"))
    tiny_config.model.num_classes = 2
    file = tmp_path / "source.safetensors"
    export(file, init_params(tiny_config), tiny_config, 3)
    tiny_config.training.init_from = str(file)
    for classes in ((), ("run", "walk"), ("jump", "run")):
        tiny_config.data.classes = classes
        load_source(tiny_config, make_mesh(tiny_config))
        note = "note: its config.data.classes is ('run', 'walk'), and this configuration has ('jump"
        assert (note in capsys.readouterr().out) == ("jump" in classes)


def test_names_that_differ_in_the_form_of_their_accents_are_equal(videos, tiny_config):
    _add(videos, "cafe\u0301")
    tiny_config.data.update(name="folder", path=str(videos), condition="label")
    tiny_config.data.classes = ("caf\u00e9", "walk", "run")
    tiny_config.model.num_classes = 3
    open_folder.cache_clear()
    source = make_data_set(tiny_config, "test")
    colours = {source.label(i): source.example(i)["video"].mean() for i in range(3)}
    assert sorted(colours, key=colours.__getitem__) == [2, 1, 0]


def test_classes_are_as_many_as_the_model_has(tiny_config, videos):
    tiny_config.data.update(name="folder", path=str(videos), condition="label")
    tiny_config.data.classes = ("run", "run")
    tiny_config.model.num_classes = 2
    with pytest.raises(ValueError, match=r"data\.classes is .*must be empty, or different names"):
        check(tiny_config, None, "train")
    tiny_config.data.classes = ("jump", "run", "walk")
    with pytest.raises(ValueError, match=r"must be empty, or 2 names, config\.model\.num_classes"):
        check(tiny_config, None, "train")
