"""python -m vdm.metrics: results with their protocol, and one-line errors."""

import errno
import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vdm.metrics.__main__ import main
from vdm.metrics.weights.files import digest_of, load_weights


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    for name, frames in (("real", 16), ("fake", 16), ("short", 8)):
        video = rng.integers(0, 256, (3, frames, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", video=video)
    return tmp_path


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing")
def test_a_result_that_cannot_be_written_is_printed(tmp_path, capsys):
    video = np.random.default_rng(0).integers(256, size=(2, 4, 12, 12, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", video=video)
    arguments = [f"--{name}={tmp_path / 'a.npz'}" for name in ("real", "generated")]
    with pytest.raises(SystemExit, match=r"^error: /dev/full cannot be written: No space left"):
        main([*arguments, "--protocol=similarity", "--output=/dev/full"])
    assert "psnr" in json.loads(capsys.readouterr().out)


def test_files_that_are_left_out_are_counted(tmp_path, capsys):
    for name in ("real", "generated"):
        (tmp_path / name).mkdir()
        for index in range(2):
            video = np.random.default_rng(index).integers(256, size=(4, 12, 12, 1), dtype=np.uint8)
            np.save(tmp_path / name / f"{index}.npy", video)
    for name in ("2.rm", "3.rm", "4.rm"):
        (tmp_path / "real" / name).touch()
    main([f"--real={tmp_path}/real", f"--generated={tmp_path}/generated", "--protocol=similarity"])
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert [result[name]["files_left_out"] for name in ("real", "generated")] == [3, 0]
    assert [result[name]["videos"] for name in ("real", "generated")] == [2, 2]
    real, generated = (line for line in printed.err.splitlines() if " videos of " in line)
    assert real.startswith(f"real: 2 videos of {tmp_path}/real; 3 other files are left out: 2.rm ")
    assert generated == f"generated: 2 videos of {tmp_path}/generated"


@pytest.mark.usefixtures("capsys")  # pytest would write what is printed into a limited file
def test_a_full_disk_keeps_the_result_before(tmp_path):
    video = np.random.default_rng(0).integers(256, size=(2, 4, 12, 12, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", video=video)
    output = tmp_path / "result.json"
    arguments = [f"--{name}={tmp_path / 'a.npz'}" for name in ("real", "generated")]
    arguments += ["--protocol=similarity", f"--output={output}"]
    main(arguments)
    before = output.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(SystemExit, match=r"^error: .*result\.json cannot be written: File too"):
            main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert output.read_text() == before and len(list(tmp_path.iterdir())) == 2
    link = tmp_path / "link.json"
    output.write_text("")
    link.symlink_to(output)
    main([*arguments[:-1], f"--output={link}"])
    assert link.is_symlink() and output.read_text() == before


class _Closed(io.StringIO):
    def flush(self):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_result_that_cannot_be_printed_is_written(tmp_path, monkeypatch):
    video = np.random.default_rng(0).integers(256, size=(2, 4, 12, 12, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", video=video)
    arguments = [f"--{name}={tmp_path / 'a.npz'}" for name in ("real", "generated")]
    monkeypatch.setattr("sys.stdout", _Closed())
    with pytest.raises(SystemExit, match=r"^error: the result cannot be printed: Broken pipe"):
        main([*arguments, "--protocol=similarity", f"--output={tmp_path / 'result.json'}"])
    assert "psnr" in json.loads((tmp_path / "result.json").read_text())


def test_errors_precede_the_loading_of_networks(paths, capsys, monkeypatch):
    monkeypatch.delattr("vdm.metrics.features.make_extractors")
    real, fake, short = (f"{paths}/{name}.npz" for name in ("real", "fake", "short"))
    wide, ten = f"{paths}/wide.npz", f"{paths}/ten.npz"
    np.savez(ten, video=np.zeros((10, 16, 8, 8, 3), np.uint8))
    np.savez(wide, video=np.zeros((2, 16, 8, 9, 3), np.uint8))
    for arguments, sentence in (
        (["--real=none", f"--generated={fake}"], "none does not exist"),
        (["--real=gs://b/a", f"--generated={fake}"], "gs://b/a is a URL, and must be a local"),
        ([f"--real={real}", f"--generated={fake}", "--protocol=bair"], "8 x 8 pixels .* 64 x 64"),
        (
            [f"--real={real}", f"--generated={fake}", "--protocol=bair", "--frames=8"],
            "bair has 16",
        ),
        ([f"--real={real}", f"--generated={fake}", "--output=no/where.json"], "there is no folder"),
        ([f"--real={real}", f"--generated={fake}", f"--output={paths}"], "output is .* a file"),
        ([f"--real={real}", f"--generated={fake}", "--output=~/no/a.json"], "no folder /.*[^~]/no"),
        (
            [f"--real={real}", f"--generated={fake}", "--batch_size=0"],
            "batch_size is 0, and must",
        ),
        ([f"--real={real}", f"--generated={short}"], "short.npz has 8 frames, and 16 are needed"),
        (
            [f"--real={real}", f"--generated={fake}", "--protocol=prediction"],
            "real.npz has videos of 8 x 8 pixels .*, and SSIM needs 11 x 11",
        ),
        (
            [f"--real={real}", f"--generated={fake}", "--protocol=inception_score"],
            "real.npz has 3 videos, and the protocol inception_score needs 10: an Inception Score",
        ),
        (
            [f"--real={ten}", f"--generated={fake}", "--protocol=inception_score"],
            "fake.npz has 3 videos, and the protocol inception_score needs 10: an Inception Score",
        ),
        (
            [f"--real={real}", f"--generated={fake}", "--protocol=long", "--frameskip=2"],
            "real.npz has videos of 8 frames at frameskip 2, and the protocol long needs 16",
        ),
        (
            [f"--real={real}", f"--generated={fake}", "--protocol=similarity", "--frames=1"],
            "real.npz has videos of 1 frames, and the protocol similarity needs 2",
        ),
        ([f"--real={real}", f"--generated={wide}"], "wide.npz has videos of 8 x 9 .* of 8 x 8"),
    ):
        found = fails(capsys, *arguments)
        assert found.startswith("error: ")
        assert re.search(sentence, found), found


def _run(paths, *arguments, **environment):
    sets = (f"--real={paths}/real.npz", f"--generated={paths}/fake.npz")
    return subprocess.run(
        [sys.executable, "-m", "vdm.metrics", *sets, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_accelerator_is_one_sentence(paths):
    done = _run(paths, JAX_PLATFORMS="nobodys")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: JAX has no devices of JAX_PLATFORMS='nobodys'")


def test_too_little_memory_is_one_sentence(paths, monkeypatch, capsys):
    monkeypatch.setattr("vdm.metrics.__main__.run", lambda _: jnp.zeros(2**45).block_until_ready())
    found = fails(capsys, f"--real={paths}", f"--generated={paths}")
    assert found.startswith("error: out of memory: ") and "a smaller --batch_size" in found


def test_ctrl_c_is_one_sentence(paths, monkeypatch, capsys):
    def interrupted(flags):
        raise KeyboardInterrupt

    monkeypatch.setattr("vdm.metrics.__main__.run", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([f"--real={paths}", f"--generated={paths}"])
    assert (stop.value.code, capsys.readouterr().err) == (130, "error: interrupted\n")


def test_too_few_frames_for_the_network_are_an_error(paths, capsys):
    weights_or_skip()
    found = fails(capsys, f"--real={paths}/short.npz", f"--generated={paths}/fake.npz")
    assert "short.npz has videos of 8 frames, and i3d needs 9" in found


def weights_or_skip():
    try:
        return digest_of(load_weights("i3d"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_the_result_has_the_metric_and_its_protocol(paths):
    sha = weights_or_skip()
    output = paths / "result.json"
    done = _run(paths, "--batch_size=3", f"--output={output}")
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert json.loads(done.stdout) == result
    assert result["fvd"] > 1
    assert result["protocol"]["name"] == "fvd" and result["protocol"]["frames"] == 16
    assert result["networks"]["i3d"]["weights_sha256"] == sha
    assert result["real"]["videos"] == 3
    assert any("too few for the covariance of 400" in warning for warning in result["warnings"])
