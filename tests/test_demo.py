"""The demo: the functions behind the page, its command line, and the page in a headless browser."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from vdm.build import parameter_shapes
from vdm.demo.__main__ import free_port, parse
from vdm.demo.requests import Demo, RequestError, Settings, condition_field, default_settings
from vdm.exported import export
from vdm.video.read import open_video

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUICK = Settings(sampler="ddim", num_steps=2, num_videos=2, guidance_weight=2.0)


def _params(config):
    """Returns random parameters, without compiling the initialisation."""
    random = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    return unflatten_dict(
        {name: random.normal(0, 0.1, shape) for name, shape in shapes.items()}, sep="/"
    )


@pytest.fixture(scope="module")
def files(tiny_config_of_module, tmp_path_factory):
    """Exported files of random weights: one label-conditional model, and one unconditional."""
    folder = tmp_path_factory.mktemp("exported")
    config = tiny_config_of_module
    export(folder / "unconditional.safetensors", _params(config), config, 1)
    config.data.condition, config.model.num_classes = "label", 10
    config.sample.num_steps = 2
    export(folder / "labelled.safetensors", _params(config), config, 12)
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def demo(files, tmp_path_factory):
    return Demo(list(files.values()), tmp_path_factory.mktemp("results"))


def test_samples_are_those_of_the_model_and_have_files(demo, files):
    steps = []
    result = demo.run("sample", files["labelled"], QUICK, progress=lambda *step: steps.append(step))
    assert steps == [(0, 2, 1), (1, 2, 1)]
    with np.load(result.arrays) as arrays:
        np.testing.assert_array_equal(arrays["video"], result.videos)
    assert result.videos.shape == (2, 4, 8, 8, 1) and open_video(result.movie).num_frames == 4
    assert result.sheet.read_bytes().startswith(b"\x89PNG")
    assert re.fullmatch(
        r"2 videos of 4 frames of 8x8 pixels in .* s: labelled, step 12, .*", result.summary
    )
    again = demo.run("sample", files["labelled"], QUICK)
    np.testing.assert_array_equal(again.videos, result.videos)
    assert again.movie != result.movie
    model = demo.model(files["labelled"])
    expected = model.sample(
        2, label=[0, 1], seed=0, sampler="ddim", num_steps=2, guidance_weight=2.0, batch_size=2
    )
    np.testing.assert_array_equal(result.videos, expected)


def test_a_clip_is_predicted_extended_and_upsampled(demo, files, tmp_path):
    clip = np.random.default_rng(0).integers(256, size=(4, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "clip.npz", video=clip[None])
    for task, source, option, frames in (
        ("predict", str(tmp_path / "clip.npz"), 2, 4),
        ("extend", clip, 6, 6),
        ("upsample", clip, 2, 4),
    ):
        result = demo.run(task, files["labelled"], QUICK, clip=source, option=option)
        assert result.videos.shape == (2, frames, 8, 8, 1)
        known = {"predict": 2, "extend": 4}.get(task, 0)
        for video in result.videos:
            np.testing.assert_array_equal(video[:known], clip[:known])


def test_a_model_of_diffusion_forcing_upsamples(tiny_config, tmp_path):
    """The page has no field of the conditioning, and that of such a model is for frames alone."""
    tiny_config.diffusion.frame_times = "independent"
    tiny_config.sample.conditioning = "diffusion_forcing"
    export(path := tmp_path / "forcing.safetensors", _params(tiny_config), tiny_config, 1)
    clip = np.zeros((4, 8, 8, 1), np.uint8)
    settings = default_settings(tiny_config, num_videos=1)
    found = Demo([str(path)], tmp_path).run("upsample", str(path), settings, clip=clip, option=2)
    assert found.videos.shape == (1, 4, 8, 8, 1)


def test_skipped_frames_slow_the_playback(tiny_config, tmp_path):
    tiny_config.data.update(name="folder", frame_rate=24.0, frameskip=4)
    export(tmp_path / "model.safetensors", _params(tiny_config), tiny_config, 1)
    demo = Demo([str(tmp_path)], tmp_path)
    result = demo.run("sample", str(tmp_path), Settings(sampler="ddim", num_steps=1, num_videos=1))
    times = open_video(result.movie).times
    np.testing.assert_allclose(np.diff(times).astype(float), 4 / 24)


def test_errors_are_one_sentence(demo, files, tmp_path):
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    np.savez(tmp_path / "short.npz", video=np.zeros((1, 1, 8, 8, 1), np.uint8))
    both = (
        ("predict", {"clip": str(tmp_path / "notes.txt")}, {}, "notes.txt"),
        ("predict", {"clip": str(tmp_path / "broken.mp4")}, {}, "broken.mp4"),
        ("predict", {"clip": str(tmp_path / "short.npz"), "option": 2}, {}, "2 are needed"),
        (
            "predict",
            {"clip": np.zeros((4, 8, 8, 1), np.uint8), "option": 4},
            {},
            "Observed frames is 4",
        ),
        ("predict", {}, {}, "There is no clip: upload one, or sample a video first"),
        ("extend", {"option": 1000}, {}, "The number of frames is 1000, and must be at most 256"),
        ("sample", {}, {"num_videos": 9}, "The number of videos is 9"),
        ("sample", {}, {"sampler": "dim"}, "Sampler is 'dim', and must be"),
    )
    labelled = (
        ("sample", {}, {"condition": "ten"}, "The label is 'ten', and must be a number from 0"),
        ("sample", {}, {"condition": "10"}, "The label is '10', and must be a number from 0 to 9"),
    )
    alone = (("sample", {}, {}, "the model is unconditional"),)
    for name, cases in (("labelled", (*both, *labelled)), ("unconditional", alone)):
        for task, arguments, changes, message in cases:
            settings = Settings(**{**vars(QUICK), **changes})
            with pytest.raises(RequestError, match=re.escape(message)) as caught:
                demo.run(task, files[name], settings, **arguments)
            sentence = str(caught.value)
            assert sentence.endswith(".") and "\n" not in sentence and str(tmp_path) not in sentence


def test_the_condition_field_is_that_of_the_model(tiny_config):
    assert condition_field(tiny_config) == ("", "", "")
    assert tiny_config.sample.guidance_weight != 1
    assert default_settings(tiny_config).guidance_weight == 1
    tiny_config.data.condition, tiny_config.model.action_width = "action", 2
    assert condition_field(tiny_config)[2] == "1, 0"


def test_the_command_names_the_extra_that_is_missing():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "import importlib.util; importlib.util.find_spec = lambda name: None\n"
        "from vdm.demo.__main__ import main; main([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == 'error: the demo needs Gradio: pip install "video-diffusion-jax[demo]"'
    )


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_one_sentence(port, capsys):
    with pytest.raises(SystemExit):
        parse([f"--port={port}"])
    assert f"--port is {port}, and must be from 0 to 65535" in capsys.readouterr().err


def test_a_port_that_is_not_free_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"^--host=127\.0\.0\.1 --port={port} cannot be used: A"):
            free_port("127.0.0.1", port)
        free = free_port("127.0.0.1", 0)
    assert free not in (0, port) and free_port("127.0.0.1", free) == free
    with pytest.raises(OSError, match=r"^--host=no\.such\.host --port=0 cannot be used: "):
        free_port("no.such.host", 0)


def _browser():
    """Returns the path of Chromium, or skips the test and names the missing part."""
    for package in ("gradio", "playwright"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"there is no package {package}: pip install gradio playwright")
    if path := shutil.which("chromium") or shutil.which("google-chrome"):
        return path
    pytest.skip("there is no browser chromium: apt-get install chromium")


def _serve(checkpoints):
    """Starts the command; returns the process and its address, which may not be served yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vdm.demo", f"--port={port}"]
    command += [f"--checkpoint={path}" for path in checkpoints]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return subprocess.Popen(command, env=environment), f"http://127.0.0.1:{port}/"


def _wait_until_served(server, address, seconds=300):
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    for _ in range(seconds):
        assert server.poll() is None, "the demo ended"
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"the demo does not answer after {seconds} s")


def test_the_page_samples_in_a_browser_and_contacts_no_other_host(files, tmp_path):
    browser_path = _browser()
    from playwright.sync_api import sync_playwright

    server, address = _serve([files["labelled"], files["unconditional"]])
    try:
        _wait_until_served(server, address)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=browser_path, args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.set_default_timeout(120_000)
            requested = []
            page.on("request", lambda request: requested.append(request.url))
            page.goto(address)
            page.get_by_role("button", name="Sample").click()
            summary = page.locator("#summary")
            summary.get_by_text("4 videos of 4 frames of 8x8 pixels").wait_for()
            page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
            # Prediction from an uploaded clip.
            np.savez(tmp_path / "clip.npz", video=np.zeros((1, 4, 8, 8, 1), np.uint8))
            page.get_by_role("tab", name="Predict").click()
            page.locator("input[type=file]").first.set_input_files(tmp_path / "clip.npz")
            page.locator("td", has_text="clip").first.wait_for()
            page.get_by_label("Seed").fill("7")
            page.get_by_role("button", name="Predict").click()
            summary.get_by_text("seed 7").wait_for()
            # An unconditional model has no label, and no guidance: one sentence.
            page.get_by_label("Model").click()
            page.get_by_role("option", name="unconditional").click()
            page.get_by_text("0 to 9; empty").wait_for(state="hidden")
            page.get_by_label("number input for Guidance weight").fill("3")
            page.get_by_role("button", name="Predict").click()
            message = page.locator(".toast-body")
            message.wait_for()
            assert "Guidance weight is 3" in message.inner_text()
            assert "Traceback" not in message.inner_text()
            own = (address, "data:", "blob:")
            assert [url for url in requested if not url.startswith(own)] == []
            browser.close()
    finally:
        server.terminate()
        server.wait()
