"""The memory of opening and of indexing does not grow with the length of a video."""

import subprocess
import sys

import pytest

from tests.video.written import run_ffmpeg

_MEASURED = """
import pathlib, resource, sys
from vdm.video import open_video
from vdm.video.index import index_folder
from vdm.video.read import stream_frames
path = pathlib.Path(sys.argv[2])
if sys.argv[1] == "open":
    video = open_video(path)
    assert video.frames([video.num_frames - 1]).shape == (1, 240, 320, 3)
elif sys.argv[1] == "index":
    assert len(index_folder(path.parent, save=False).videos) == 1
else:
    assert sum(1 for frame in stream_frames(path)) >= 250
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def peak_megabytes(tmp_path_factory):
    """Peak memory of a way to read a video of so many seconds, in MB."""
    folder = tmp_path_factory.mktemp("lengths")

    def measured(how: str, seconds: int, name: str) -> float:
        path = folder / f"{seconds} {name}" / name
        if not path.exists():
            path.parent.mkdir()
            source = f"testsrc=size=320x240:rate=25:duration={seconds}"
            # A keyframe every 2 s, as browsers and cameras have it.
            options = ("-c:v", "mpeg4", "-g", "50", "-bf", "2", "-q:v", "5")
            if name.endswith(".mp4"):
                options = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "50")
            run_ffmpeg("-f", "lavfi", "-i", source, *options, "-pix_fmt", "yuv420p", path)
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, how, path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1]) / 1024

    return measured


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
@pytest.mark.parametrize("how", ["open", "index", "stream"])
def test_peak_memory_does_not_depend_on_the_length(peak_megabytes, how, name):
    short, long = (peak_megabytes(how, seconds, name) for seconds in (10, 600))
    assert abs(long - short) < 40, f"{short:.0f} MB for 10 s, {long:.0f} MB for 600 s"
