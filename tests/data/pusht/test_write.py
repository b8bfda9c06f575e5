"""Preparing PushT: complete or resumed, atomic, checked."""

import sys

import numpy as np
import pytest

from tests.data.pusht.drawn import draw_numbered, prepare
from vdm.data.prepare import main
from vdm.data.pusht import write
from vdm.files import read_record


@pytest.fixture(autouse=True)
def _numbered(monkeypatch):
    draw_numbered(monkeypatch)


@pytest.fixture
def drawn(monkeypatch):
    """Returns the list of names of the shards that are written."""
    names, original = [], write._write_shard

    def recorded(path, *arguments):
        names.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(write, "_write_shard", recorded)
    return names


def test_the_record_has_settings_versions_and_digests(tmp_path):
    record = prepare(tmp_path / "new")
    assert read_record(tmp_path / "new" / "pusht.json") == record
    assert record["settings"] == {"format": 2, "seed": 0, "train": 7, "test": 2, "frames": 8}
    assert list(record["shards"]) == [
        *("train_00000.npz", "train_00001.npz", "train_00002.npz", "test_00000.npz")
    ]
    assert "gym-pusht" in record["versions"] and record["moving"] == 1
    assert not list((tmp_path / "new").glob("*.tmp"))


def test_the_same_call_twice_draws_nothing_and_damage_is_repaired(tmp_path, drawn):
    record = prepare(tmp_path)
    assert drawn == list(record["shards"])
    drawn.clear()
    assert prepare(tmp_path) == record and not drawn
    (tmp_path / "train_00001.npz").write_bytes(b"damaged")
    (tmp_path / "test_00000.npz").unlink()
    assert prepare(tmp_path) == record and drawn == ["train_00001.npz", "test_00000.npz"]


def test_an_interrupted_call_resumes(tmp_path, drawn, monkeypatch):
    def interrupted(environment, seed, split, index, frames):
        if index == 4:
            raise KeyboardInterrupt
        return original(environment, seed, split, index, frames)

    original = write.draw_clip
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(write, "draw_clip", interrupted)
        prepare(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"pusht.json", "train_00000.npz"}
    drawn.clear()
    record = prepare(tmp_path)
    assert drawn == list(record["shards"])[1:]
    whole = prepare(tmp_path / "whole")
    for name in record["shards"]:
        resumed = np.load(tmp_path / name)
        for key, array in np.load(tmp_path / "whole" / name).items():
            np.testing.assert_array_equal(resumed[key], array)
    assert record["moving"] == whole["moving"]


def test_other_settings_or_versions_are_an_error(tmp_path, monkeypatch):
    prepare(tmp_path)
    with pytest.raises(ValueError, match="clips with frames 8, and 9 is required: choose another"):
        prepare(tmp_path, frames=9)
    (tmp_path / "train_00001.npz").unlink()
    monkeypatch.setattr(write, "_version", lambda package: "9.9")
    with pytest.raises(ValueError, match=r"drawn with gym-pusht .*, and 9\.9 is installed"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--frames=0"], "--frames is 0, and must be at least 1"),
        (["--seed=-1"], "--seed is -1, and must be at least 0"),
        ([f"--seed={2**63}"], f"--seed is {2**63}, and must be less than 2**63"),
        (["--data_dir=FILE/folder"], "cannot be written"),
        (["--data_dir=gs://bucket/pusht"], "gs://bucket/pusht is a URL, and must be a local or"),
    ],
)
def test_invalid_options_are_one_sentence(flags, sentence, tmp_path, capsys):
    (tmp_path / "file").touch()
    flags = [flag.replace("FILE", str(tmp_path / "file")) for flag in flags]
    with pytest.raises(SystemExit):
        main(["pusht", f"--data_dir={tmp_path / 'out'}", *flags])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and sentence in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{}", '{"settings": {}, "versions": {}, "shards": {}}', "["])
def test_a_damaged_record_is_one_sentence(content, tmp_path, capsys):
    (tmp_path / "pusht.json").write_text(content)
    with pytest.raises(SystemExit):
        main(["pusht", f"--data_dir={tmp_path}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'pusht.json'} is damaged")
    assert line.endswith("choose another --data_dir, or delete that folder")


def test_the_missing_package_is_named_and_nothing_written(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", None)
    with pytest.raises(SystemExit):
        main(["pusht", f"--data_dir={tmp_path / 'out'}"])
    assert 'pip install "video-diffusion-jax[pusht]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_folder_and_the_share_of_moving_blocks(tmp_path, capsys):
    main(["pusht", f"--data_dir={tmp_path}", "--train=4", "--test=1", "--workers=1"])
    assert "moves in 100.0% of all windows" in (printed := capsys.readouterr().out)
    assert printed.endswith(f"prepared: {tmp_path}\n")


def test_a_block_moves_if_a_corner_moves_by_a_pixel():
    corners = np.zeros((20, 8, 2))
    assert write.moving_share(corners) == 0
    corners[17:, 3, 0] = 1  # in frame 17, which the windows from 2 to 4 have
    assert write.moving_share(corners) == 3 / 5
    assert write.moving_share(corners[15:]) == 1
