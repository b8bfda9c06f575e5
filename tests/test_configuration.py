"""Where a configuration comes from, its overrides, and what is wrong with one."""

import json
import re
from pathlib import Path

import ml_collections
import pytest

from vdm.config import default_config
from vdm.configuration.resolve import (
    available,
    find_file,
    load_file,
    page,
    resolve,
    split_overrides,
)
from vdm.configuration.stored import fields_of, from_record, load_run_config, save_run_config
from vdm.exported import export, load_exported_config
from vdm.shipped import find_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture
def saved(tiny_config, tmp_path):
    """A workdir with a configuration that differs from all files."""
    tiny_config.model.channel_multipliers = (3, 5)
    tiny_config.data.path = "~/videos"
    save_run_config(tmp_path, tiny_config)
    return tmp_path


def test_a_name_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file("bair") == find_file("bair.py") == find_file("configs/bair.py")
    assert resolve("bair", None, {}).data.name == "bair_robot_pushing_small"
    Path("bair.py").write_text("")
    assert find_file("bair.py") == Path("bair.py")


@pytest.mark.parametrize("name", available())
def test_json_keeps_every_configuration(name):
    config = load_file(find_file(name))
    again = from_record(json.loads(config.to_json_best_effort()), name)
    assert fields_of(again) == fields_of(config)


def test_the_run_of_a_workdir_needs_no_file(saved):
    config = resolve(None, saved, {"model.dropout": "0.5"})
    assert config.model.channel_multipliers == (3, 5) and config.model.dropout == 0.5
    assert config.data.path == str(Path.home() / "videos")


def test_an_exported_file_has_precedence_over_the_workdir(saved, tiny_config, tmp_path):
    tiny_config.model.head_dim = 4
    export(tmp_path / "model.safetensors", {}, tiny_config, 1)
    overrides = {"checkpoint": str(tmp_path / "model.safetensors"), "sample.seed": "5"}
    config = resolve(None, saved, overrides)
    assert (config.model.head_dim, config.sample.seed) == (4, 5)


def test_a_folder_without_weights_hides_no_shipped_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = str(ROOT / "checkpoints" / "moving_digits.safetensors")
    folder = tmp_path / "moving_digits"
    (folder / "samples").mkdir(parents=True)
    overrides = {"checkpoint": "moving_digits", "training.init_from": "moving_digits"}
    config = resolve(None, None, overrides)
    assert config.checkpoint == config.training.init_from == shipped
    # A run of that name is its own, for init_from; config.checkpoint takes no workdir.
    (folder / "checkpoints").mkdir()
    assert resolve("bair", None, overrides).training.init_from == "moving_digits"
    message = r"no file moving_digits: .*; --mode=export writes .* a run, moving_digits/model\.safe"
    with pytest.raises(FileNotFoundError, match=message):
        resolve(None, None, overrides)
    (folder / "checkpoints").rename(folder / "model.safetensors")
    assert find_checkpoint("moving_digits") is None  # vdm.load opens the file in the folder
    assert find_checkpoint("moving_digits/model.safetensors") is None


def test_a_record_of_another_version(tiny_config):
    record = json.loads(tiny_config.to_json_best_effort())
    del record["data"]["frame_rate"]
    record["model"]["head_dim"] = 2
    record["model"]["folding"] = "dense"
    config = from_record(record, "an old file")
    assert (config.data.frame_rate, config.model.head_dim) == (0.0, 2)
    assert "folding" not in config.model


def test_the_shipped_file_keeps_the_choices_of_its_time():
    record, _ = load_exported_config(ROOT / "checkpoints/moving_digits.safetensors")
    assert "ema_ramp" not in record["training"] and "attention_bias" not in record["model"]
    config = from_record(record, "the file")
    assert config.training.ema_ramp and config.diffusion.time_sampling == "stratified"
    assert config.model.narrow_upsampling and not config.model.attention_bias


def test_overrides_as_people_type_them():
    rest, overrides = split_overrides(
        [
            *("vdm", "--config.model.channel_multipliers=(1,2)", "--mode=sample"),
            *("--config.sample.label", "-1", "--config.data.augment_flip"),
            *("--noconfig.diffusion.clip", "--config.seed=3"),
            *("--config.model.channel_multipliers=(4,)", "--config=bair"),
        ]
    )
    assert rest == ["vdm", "--mode=sample", "--config=bair"]
    config = resolve("bair", None, overrides)
    assert config.model.channel_multipliers == (4,)
    assert (config.sample.label, config.seed, config.sample.seed) == (-1, 3, 0)
    assert config.data.augment_flip is True and config.diffusion.clip is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config.sample.caption",), "--config.sample.caption has no value, .* with a string"),
        (("--config.data.path", "--mode=train"), "--config.data.path has no value"),
        (("--config.seed", "--config.step=2"), "--config.seed=VALUE with an integer"),
        (("--noconfig.sample.label",), "--noconfig.sample.label has no value, .* with an integer"),
        (("--noconfig.diffusion.clip=False",), "--noconfig.diffusion.clip takes no value"),
    ],
)
def test_a_forgotten_value_is_not_true(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_overrides(["vdm", *arguments])


def test_an_empty_override_is_the_empty_value_of_its_type(saved):
    names = ("model.attention_resolutions", "sample.caption", "checkpoint")  # as of unset variables
    config = resolve(None, saved, dict.fromkeys(names, ""))
    assert config.model.attention_resolutions == () and config.sample.caption == ""
    assert config.model.channel_multipliers == (3, 5)  # of the workdir


def test_an_argument_of_a_configuration_follows_a_colon():
    low, high = (resolve(f"moving_digits_cascade{name}", None, {}) for name in (":low", ""))
    assert (low.data.resolution, high.data.resolution) == (6, 12)
    with pytest.raises(ValueError, match="the stage after the colon is 'lo', and must be low or"):
        resolve("configs/moving_digits_cascade.py:lo", None, {})
    with pytest.raises(FileNotFoundError, match=r"file bair\.json; did you mean bair\? configs/"):
        resolve("bair.json", None, {})


def test_a_colon_may_be_part_of_a_path(tmp_path):
    path = tmp_path / "12:30" / "5:1.py"
    path.parent.mkdir()
    path.write_text((ROOT / "configs" / "moving_digits_cascade.py").read_text())
    assert resolve(str(path), None, {}).data.resolution == 12
    assert resolve(f"{path}:low", None, {}).data.resolution == 6
    with pytest.raises(ValueError, match=r"^file:///a/b\.py is a URL, and must be a local"):
        resolve("file:///a/b.py", None, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:", r"broken.py, line 1: SyntaxError: "),
        ("def get_config():\n    import vdm.nowhere", r"line 2: ModuleNotFoundError: .*nowhere"),
        ("def get_config():\n    return 1 / 0", r"broken.py, line 2: ZeroDivisionError: "),
        ("config = 3", r"broken.py: AttributeError: .*get_config"),
        ("def get_config():\n    return {}", r"returns dict, not a ConfigDict"),
        (
            "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()",
            r"broken.py: the configuration lacks cascade.base_checkpoint",
        ),
    ],
)
def test_names_the_line_of_a_broken_file(tmp_path, monkeypatch, content, message):
    (tmp_path / "broken.py").write_text(content)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    for path in (tmp_path / "broken.py", "../broken.py"):
        with pytest.raises(ValueError, match=message):
            resolve(str(path), None, {})


@pytest.mark.parametrize("field", fields_of(default_config()))
def test_a_field_of_a_file_is_never_none(tmp_path, field):
    # JSON would store it in the workdir, and no later command could read it.
    (tmp_path / "mine.py").write_text(
        "from vdm.config import default_config\n"
        f"def get_config():\n    config = default_config()\n    config.{field} = None\n"
        "    return config"
    )
    default = re.escape(repr(fields_of(default_config())[field]))
    message = rf"mine\.py: config\.{field} is None, and must be .+; the default is {default}$"
    with pytest.raises(ValueError, match=message):
        resolve(str(tmp_path / "mine.py"), None, {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.base_chanels": "8"}, r"did you mean config\.model\.base_channels\?"),
        ({"wholly": "8"}, r"config\.wholly does not exist"),
        ({"model.base_channels": "many"}, r"base_channels is 'many', and must be an integer"),
        ({"model.channel_multipliers": "(1,"}, r"config\.model\.channel_multipliers"),
        (
            {"model": "{}"},
            r"config\.model is a section: set its fields one by one, as --config\.mo",
        ),
    ],
)
def test_names_a_wrong_override(overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        resolve("bair", None, overrides)
    assert "\n" not in str(caught.value)


def test_lists_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration file nope.py; .* bair, folder"):
        resolve("nope.py", None, {})
    with pytest.raises(ValueError, match=r"--config is required, since .* holds no run"):
        resolve(None, tmp_path, {})


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b'{"model": {', b"\xff\xfe", b"[]", b'{"model": 3}'),
        *(b'{"model": {}, "data": 5}', b"[" * 100_000, b'{"model": ' + b"1" * 5_000 + b"}"),
    ],
)
def test_names_a_damaged_configuration_of_a_run(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json "):
        load_run_config(tmp_path)


def test_the_page_has_the_value_of_every_field():
    config = resolve("kinetics600", None, {"sample.caption": "'a # b'"})
    lines = re.findall(r"^config\.(\S+) = (.*?)(?:  # .+)?$", page(config), re.MULTILINE)
    assert {name: repr(value) for name, value in fields_of(config).items()} == dict(lines)
    assert isinstance(config, ml_collections.ConfigDict)
