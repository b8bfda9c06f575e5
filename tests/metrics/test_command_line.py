"""python -m vdm.metrics: numbers with their protocol, and one sentence for what does not fit."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from vdm.metrics.__main__ import main
from vdm.metrics.weights import files as weight_files


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


def test_what_does_not_fit_is_said_before_a_network_is_made(paths, capsys):
    real, fake, short = (f"{paths}/{name}.npz" for name in ("real", "fake", "short"))
    wide = f"{paths}/wide.npz"
    np.savez(wide, video=np.zeros((2, 16, 8, 9, 3), np.uint8))
    for arguments, sentence in (
        (["--real=none", f"--generated={fake}"], "none does not exist"),
        ([f"--real={real}", f"--generated={fake}", "--protocol=bair"], "8 x 8 pixels .* 64 x 64"),
        (
            [f"--real={real}", f"--generated={fake}", "--protocol=bair", "--frames=8"],
            "bair has 16",
        ),
        ([f"--real={real}", f"--generated={fake}", "--output=no/where.json"], "there is no folder"),
        ([f"--real={real}", f"--generated={fake}", "--batch_size=0"], "at least 1, not 0"),
        ([f"--real={real}", f"--generated={short}"], "short.npz has 8 frames, and 16 are needed"),
        ([f"--real={real}", f"--generated={wide}"], "wide.npz has videos of 8 x 9 .* of 8 x 8"),
    ):
        found = fails(capsys, *arguments)
        assert found.startswith("error: ")
        assert re.search(sentence, found), found


def test_too_few_frames_for_the_network(paths, capsys):
    weights_or_skip()
    found = fails(capsys, f"--real={paths}/short.npz", f"--generated={paths}/fake.npz")
    assert "short.npz has videos of 8 frames, and i3d needs 9" in found


def weights_or_skip():
    try:
        return weight_files.digest_of(weight_files.load("i3d"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_the_result_has_the_number_and_all_that_it_depends_on(paths):
    sha = weights_or_skip()
    output = paths / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vdm.metrics", "--batch_size=3", f"--output={output}"),
            *(f"--real={paths}/real.npz", f"--generated={paths}/fake.npz"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(output.read_text())
    assert json.loads(done.stdout) == result
    assert result["fvd"] > 1
    assert result["protocol"]["name"] == "fvd" and result["protocol"]["frames"] == 16
    assert result["networks"]["i3d"]["weights_sha256"] == sha
    assert result["real"]["videos"] == 3
    assert any("too few for the covariance of 400" in warning for warning in result["warnings"])
