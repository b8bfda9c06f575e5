"""vdm.metrics.fvd, fid and kvd of arrays and paths equal `python -m vdm.metrics`."""

import re
import subprocess
import sys

import numpy as np
import pytest

import vdm
from vdm.metrics.__main__ import parse, run
from vdm.metrics.weights.files import load_weights


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Videos of mixed sizes and lengths, as lists of arrays and as folders."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    shapes = {"real": [(10, 16, 24, 3), (9, 20, 16, 3)], "generated": [(9, 16, 16, 1)] * 2}
    videos = {
        name: [rng.integers(0, 256, shape, dtype=np.uint8) for shape in of_name]
        for name, of_name in shapes.items()
    }
    for name, of_name in videos.items():
        (root / name).mkdir()
        for index, video in enumerate(of_name):
            np.savez(root / name / f"{index}.npz", video=video)
    return root, videos


@pytest.fixture
def i3d():
    try:
        load_weights("i3d")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("i3d")
@pytest.mark.filterwarnings("ignore:.*(too few|up to)")
def test_fvd_of_arrays_and_of_folders_is_that_of_the_command_line(sets):
    root, videos = sets
    paths = [root / "real", root / "generated"]
    flags = [f"--real={paths[0]}", f"--generated={paths[1]}", "--resolution=8", "--frames=9"]
    expected = run(parse(flags))
    found = vdm.metrics.compare_sets(*videos.values(), resolution=8, frames=9)
    for name in ("real", "generated"):
        assert found.pop(name) | {"path": str(root / name)} == expected.pop(name)
    warnings = [[w.replace(f"{root}/", "") for w in r.pop("warnings")] for r in (found, expected)]
    assert len(warnings[0]) == len(warnings[1]) == 3
    assert found == expected
    assert vdm.metrics.fvd(videos["real"], str(paths[1]), resolution=8, frames=9) == found["fvd"]


def test_errors_name_the_argument(sets):
    _, videos = sets
    real, generated = videos["real"], videos["generated"]
    for arguments, options, message in (
        ((real[0], real[0]), {}, r"real is uint8 \[10, .*\], and must .*; real\[None\] is a set"),
        ((real, generated), {"frames": 10}, r"real\[1\] has 9 frames, and 10 are needed"),
        ((real, generated), {"frames": 9}, r"real\[1\] is 20 x 16 .*: resolution=N"),
        ((real[:1] * 2, generated), {"frames": 9}, r"16 x 16 pixels .*: resolution=N"),
        ((np.zeros((2, 9, 8, 8, 3)), generated), {}, r"real\[0\] is float64 .*to_uint8 converts"),
        ((real, []), {"frames": 9, "resolution": 8}, "generated has no videos"),
        ((real, "gone"), {"frames": 9, "resolution": 8}, "gone does not exist"),
        ((real, generated), {"frames": 9, "frame_rate": 8.0}, "has no timestamps"),
        ((real, generated), {"protocol": "fid"}, "compare_sets takes it"),
        (
            (real[0][None, ..., 0], generated),
            {},
            r"real is uint8 \[1, 10, .*real\[\.\.\., None\] has a",
        ),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            vdm.metrics.fvd(*arguments, **options)
    with pytest.raises(ValueError, match="protocol is 'fvid', and must be one of"):
        vdm.metrics.compare_sets(real, generated, protocol="fvid")
    with pytest.raises(ValueError, match="view is 'last', and must be one of"):
        vdm.metrics.fid(real, generated, view="last")


_OTHER_TYPES = """
import numpy as np, vdm
videos = np.zeros((2, 9, 8, 8, 3), np.uint8)
for arguments, options in (
    ((videos, videos), {"frames": 9.0}),
    ((videos, videos), {"resolution": None}),
    ((videos, videos), {"frameskip": True}),
    ((videos, videos), {"clips_per_video": "2"}),
    ((videos, videos), {"frame_rate": "8"}),
    ((videos, videos), {"batch_size": 2.5}),
    ((videos, None), {}),
    ((videos, ["a.npz"]), {}),
    (([[[1], [2, 3]]], videos), {}),
):
    try:
        vdm.metrics.fvd(*arguments, **options)
    except ValueError as error:
        print(error)
"""


def test_arguments_of_other_types_are_named():
    """In another process, as tests enforce the annotations of types in this one."""
    command = [sys.executable, "-c", _OTHER_TYPES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    patterns = (
        r"frames is 9\.0, and must be an integer",
        r"resolution is None, and must be an integer",
        r"frameskip is True, and must be an integer",
        r"clips_per_video is '2', and must be an integer",
        r"frame_rate is '8', and must be 0 .* or positive",
        r"batch_size is 2\.5, and must be an integer",
        r"generated is None, and must be a path, .* or a list of videos",
        r"generated\[0\] is 'a\.npz', and must be an array: paths .*",
        r"real\[0\] cannot be an array: .*",
    )
    for line, pattern in zip(done.stdout.splitlines(), patterns, strict=True):
        assert re.match(pattern, line), line
