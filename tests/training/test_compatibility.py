"""A configuration that does not fit a run is refused, with all differences, and nothing changes."""

import pytest

from vdm.configuration.stored import save_run_config
from vdm.training.compatibility import check_same_run, check_weights


@pytest.fixture
def workdir(tmp_path, tiny_config):
    save_run_config(tmp_path, tiny_config)
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    return tmp_path


def _contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_a_run_is_resumed_with_its_model_data_and_optimizer(workdir, tiny_config):
    before = _contents(workdir)
    tiny_config.training.update(num_steps=7, learning_rate=1.0, batch_size=2)
    tiny_config.model.update(dropout=0.5, remat="blocks")
    check_same_run(tiny_config, workdir)
    tiny_config.training.optimizer, tiny_config.data.resolution = "adam", 16
    with pytest.raises(ValueError) as error:
        check_same_run(tiny_config, workdir)
    message = str(error.value)
    assert "its config.training.optimizer is 'muon', and this configuration has 'adam'" in message
    assert "its config.data.resolution is 8, and this configuration has 16" in message
    assert "\n" not in message and _contents(workdir) == before
    check_same_run(tiny_config, workdir / "another")  # a new run


def test_weights_are_used_with_their_model(workdir, tiny_config):
    tiny_config.data.speed = 0.25  # other data are no other model
    check_weights(tiny_config, workdir)
    tiny_config.data.resolution = 16  # the attention is at 4 pixels of 4, and not of 8
    with pytest.raises(ValueError, match=r"its config\.data\.resolution is 8, and this .* has 16"):
        check_weights(tiny_config, workdir)
    (workdir / "config.json").unlink()
    with pytest.raises(ValueError, match=r"and no config\.json that describes them"):
        check_weights(tiny_config, workdir)


def test_a_file_in_place_of_the_checkpoints_is_named(workdir, tiny_config):
    (workdir / "checkpoints" / "10").rmdir()
    (workdir / "checkpoints").rmdir()
    (workdir / "checkpoints").write_text("")
    with pytest.raises(NotADirectoryError, match="checkpoints is a file, and must be a folder"):
        check_same_run(tiny_config, workdir)
