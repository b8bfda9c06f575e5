"""Models on the Hugging Face Hub: pushed to a local server with its interface, and pulled."""

import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save

import vdm
from tests.hub_server import SITE, TOKEN, Repository, serve
from vdm.build import parameter_shapes
from vdm.configuration.resolve import resolve
from vdm.exported import export
from vdm.hub.__main__ import main
from vdm.hub.upload import push

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serves a Hub without repositories, with an empty cache and a valid token."""
    reason = "huggingface_hub is missing: pip install 'video-diffusion-jax[hub]'"
    huggingface_hub = pytest.importorskip("huggingface_hub", reason=reason)
    constants = importlib.import_module("huggingface_hub.constants")
    with serve() as server:
        api = functools.partial(huggingface_hub.HfApi, endpoint=server.url)
        monkeypatch.setattr(huggingface_hub, "HfApi", api)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
        yield server


def _export(path, config, step=12, seed=0):
    random = np.random.default_rng(seed)
    shapes = parameter_shapes(config)
    params = {name: random.normal(0, 0.1, shape) for name, shape in shapes.items()}
    export(path, unflatten_dict(params, sep="/"), config, step)
    return str(path)


@pytest.fixture(scope="module")
def exported(tiny_config_of_module, tmp_path_factory):
    return _export(tmp_path_factory.mktemp("run") / "model.safetensors", tiny_config_of_module)


def _files(hub, name, branch="main"):
    repository = hub.repositories[name]
    return repository.commits[repository.branches[branch]]


def _card(hub, name, branch="main"):
    """Returns the metadata of a model card, and its page."""
    _, metadata, page = _files(hub, name, branch)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(metadata), page


@pytest.mark.usefixtures("quick_compilation_once")
def test_what_is_pulled_equals_what_was_pushed(hub, exported):
    url = push(exported, "me/tiny")
    repository = hub.repositories["me/tiny"]
    assert url == f"{SITE}/me/tiny/commit/{repository.branches['main']}"
    assert len(repository.commits) == 2  # that of the creation, and one
    assert _files(hub, "me/tiny")["model.safetensors"] == Path(exported).read_bytes()
    ours, theirs = vdm.load(exported), vdm.load("hf://me/tiny")
    assert theirs.step == 12
    expected, found = flatten_dict(ours.params), flatten_dict(theirs.params)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    np.testing.assert_array_equal(theirs.sample(2, seed=3), ours.sample(2, seed=3))


def test_the_cache_serves_what_was_pulled_once(hub, exported):
    push(exported, "me/tiny")
    vdm.load("hf://me/tiny")
    hub.status = 503
    assert vdm.load("hf://me/tiny").step == 12


def test_branches_and_commits_are_revisions(hub, exported, tiny_config, tmp_path):
    push(exported, "me/tiny")
    first = hub.repositories["me/tiny"].branches["main"]
    other = _export(tmp_path / "other.safetensors", tiny_config, step=34, seed=1)
    push(other, "hf://me/tiny@runs/longer")
    push(other, "me/tiny@runs/longer", license="mit")  # the branch exists
    assert "hf://me/tiny@runs/longer" in _card(hub, "me/tiny", "runs/longer")[1]
    assert vdm.load("hf://me/tiny").step == 12
    assert vdm.load("hf://me/tiny@runs/longer").step == 34
    push(other, "me/tiny")
    assert vdm.load("hf://me/tiny").step == 34
    assert vdm.load(f"hf://me/tiny@{first}").step == 12


def test_fields_that_name_a_checkpoint_take_references(hub, exported, tmp_path):
    push(exported, "me/tiny")
    overrides = {"checkpoint": "hf://me/tiny"}
    config = resolve(None, None, overrides)
    assert Path(config.checkpoint).read_bytes() == Path(exported).read_bytes()
    assert config.data.resolution == 8  # the configuration of the file
    for field in ("training.init_from", "cascade.base_checkpoint", "extend.key_frame_checkpoint"):
        config = resolve("moving_digits", None, {field: "hf://me/tiny"})
        section, _, name = field.partition(".")
        assert Path(config[section][name]).read_bytes() == Path(exported).read_bytes()
    file = tmp_path / "config.py"
    file.write_text(
        "from configs.moving_digits import get_config as digits\n"
        "def get_config():\n"
        "    config = digits()\n"
        "    config.training.init_from = 'hf://me/tiny'\n"
        "    return config\n"
    )
    assert Path(resolve(str(file), None, {}).training.init_from).is_file()


def test_a_card_describes_the_model(hub, exported, tiny_config, tmp_path):
    push(exported, "me/tiny")
    metadata, page = _card(hub, "me/tiny")
    assert metadata["library_name"] == "video-diffusion-jax"
    assert {"vdm", "unconditional"} <= set(metadata["tags"])
    assert metadata.keys() == {"library_name", "tags"}  # no licence, which is the owner's choice
    assert "| training steps | 12 |" in page and "4 frames of 8x8 pixels" in page
    assert 'vdm.load("hf://me/tiny")\nvideos = model.sample(4)  #' in page
    tiny_config.data.update(condition="text", text_tokens=4, path="/home/me/private")
    tiny_config.model.update(text_width=8)
    push(_export(tmp_path / "text.safetensors", tiny_config), "me/text", license="mit")
    metadata, page = _card(hub, "me/text")
    assert metadata["pipeline_tag"] == "text-to-video" and metadata["license"] == "mit"
    assert 'model.sample(4, caption="...")' in page and "private" not in page
    assert '"video-diffusion-jax[hub]"' in page  # the encoder 'words' needs no other package
    tiny_config.data.text_encoder = "bert-large-uncased"
    push(_export(tmp_path / "bert.safetensors", tiny_config), "me/bert")
    assert '"video-diffusion-jax[hub,text]"' in _card(hub, "me/bert")[1]


def test_the_command_of_a_card_samples_a_model_of_actions(hub, tiny_config, tmp_path):
    tiny_config.data.update(condition="action", augment_flip=False)
    tiny_config.model.action_width = 4
    tiny_config.sample.update(num_steps=1, sampler="ddim")
    push(_export(tmp_path / "action.safetensors", tiny_config), "me/action")
    (command,) = re.findall("```python\n(.*?)```", _card(hub, "me/action")[1], re.DOTALL)
    names = {}
    exec(command, names)
    assert names["videos"].shape == (4, 4, 8, 8, 1)


def test_a_shipped_model_has_its_card(hub):
    push("moving_digits", "me/digits", license="apache-2.0")
    metadata, page = _card(hub, "me/digits")
    assert "class-conditional" in metadata["tags"] and metadata["license"] == "apache-2.0"
    assert "# Model card: moving_digits" in page and "docs/moving_digits.md, 128 samples" in page
    assert not re.search(r"\]\(\.", page)
    assert 'vdm.load("hf://me/digits")\nvideos = model.sample(4, label=0)' in page


def test_a_card_of_ones_own(hub, exported, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# Mine\n")
    push(exported, "me/tiny", card=card, license="mit")
    metadata, page = _card(hub, "me/tiny")
    assert metadata["license"] == "mit" and page == "\n# Mine\n"
    for encoding in ("utf-8", "utf-8-sig"):
        card.write_text("---\nlicense: other\n---\n# Mine\n", encoding=encoding)
        push(exported, "me/tiny", card=card)
        assert _card(hub, "me/tiny") == ({"license": "other"}, "# Mine\n")
    with pytest.raises(ValueError, match=r"--license is 'mit', .* in the metadata of .*card\.md"):
        push(exported, "me/tiny", card=card, license="mit")
    card.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"card\.md is not a Markdown file: it is no UTF-8 text"):
        push(exported, "me/tiny", card=card)


def test_private_repositories(hub, exported, monkeypatch):
    push(exported, "me/hidden", private=True)
    push(exported, "me/hidden", private=True, license="mit")
    assert hub.repositories["me/hidden"].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match=r"^hf://me/hidden: there is no such repository, or it"):
        vdm.load("hf://me/hidden")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert vdm.load("hf://me/hidden").step == 12


def test_a_private_model_is_not_pushed_to_a_public_repository(hub, exported):
    hub.repositories["me/open"] = Repository()
    with pytest.raises(OSError, match=r"^hf://me/open: the repository exists and is public"):
        push(exported, "me/open", private=True)
    assert not hub.repositories["me/open"].commits


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_pushing_needs_a_token_with_the_permission(hub, exported, monkeypatch, token):
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    status = 403 if token else 401
    message = rf"^hf://me/tiny: access is denied \(status {status}\): log in by `hf auth login`, or"
    with pytest.raises(OSError, match=message):
        push(exported, "me/tiny")
    assert not hub.repositories


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hf://me/none", "there is no such repository, or it is private: check the name"),
        ("hf://me/tiny@none", "the repository has no such branch, tag or commit"),
        ("hf://me/empty", "the repository has no model.safetensors, the file that --mode=export"),
        ("hf://me/gated", "access to the repository has to be requested on its page"),
        ("hf://me/other", "is no model of vdm: .*model.safetensors has no configuration"),
        ("hf://me/junk", "is no model of vdm: .*model.safetensors is not a safetensors file"),
        ("hf://me/a--b", "Cannot have -- or .. in repo_id"),
        ("hf://tiny", "must be hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
    ],
)
def test_errors_of_pulling_are_one_sentence(hub, reference, message):
    contents = {
        "tiny": {"model.safetensors": b""},
        "empty": {},
        "gated": {"model.safetensors": b""},
        "other": {"model.safetensors": save({"weight": np.zeros(2)})},
        "junk": {"model.safetensors": b"junk"},
    }
    for name, files in contents.items():
        hub.repositories[f"me/{name}"] = Repository(gated=name == "gated")
        hub.repositories[f"me/{name}"].commit("main", files)
    with pytest.raises((OSError, ValueError), match=f"^{reference}.* {message}") as caught:
        vdm.load(reference)
    assert "\n" not in str(caught.value)


def test_servers_that_fail_are_named(hub, exported):
    hub.status = 500
    for call in (lambda: vdm.load("hf://me/tiny"), lambda: push(exported, "me/tiny")):
        with pytest.raises(OSError, match=f"^hf://me/tiny: {hub.url} answers with status 500"):
            call()


def test_without_a_network(hub, exported, monkeypatch):
    hub.shutdown()
    hub.server_close()  # and refuses connections
    message = f"^hf://me/tiny: {hub.url} cannot be reached"
    with pytest.raises(OSError, match=f"{message}, and the file is not in the cache: .*onnect"):
        vdm.load("hf://me/tiny")
    with pytest.raises(OSError, match=f"{message}: .*onnect"):
        push(exported, "me/tiny")


def test_only_exported_files_are_pushed(hub, tmp_path):
    (tmp_path / "junk.safetensors").write_text("junk")
    with pytest.raises(ValueError, match=r"junk\.safetensors is not a safetensors file"):
        push(str(tmp_path / "junk.safetensors"), "me/tiny")
    with pytest.raises(FileNotFoundError, match=r"no file .*gone"):
        push(str(tmp_path / "gone"), "me/tiny")
    with pytest.raises(ValueError, match=r"is a folder, .* --mode=export writes .*/model\.safe"):
        push(str(tmp_path), "me/tiny")
    assert not hub.requests


def test_the_command_prints_the_commit(hub, exported, capsys):
    main(["push", exported, "me/tiny", "--private", "--license=mit"])
    repository = hub.repositories["me/tiny"]
    assert capsys.readouterr().out == f"{SITE}/me/tiny/commit/{repository.branches['main']}\n"
    assert repository.private and _card(hub, "me/tiny")[0]["license"] == "mit"


def test_sampling_offline_ends_with_one_sentence(hub, tmp_path):
    command = [sys.executable, "-m", "vdm.main", "--workdir=run", "--mode=sample"]
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--config.checkpoint=hf://me/tiny"],
        cwd=tmp_path,
        env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        f"error: hf://me/tiny: {hub.url} cannot be reached, and the file is not in the cache: "
        "HF_HUB_OFFLINE is set"
    )
    assert not hub.requests


def test_the_message_without_huggingface_hub(monkeypatch, capsys, exported):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = r'hf://me/tiny needs huggingface_hub: pip install "video-diffusion-jax\[hub\]"'
    with pytest.raises(ValueError, match=f"^{message}$"):
        vdm.load("hf://me/tiny")
    with pytest.raises(SystemExit, match="error: me/tiny needs huggingface_hub: pip install"):
        main(["push", exported, "me/tiny"])
