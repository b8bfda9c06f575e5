"""Videos a second out of each data set, against a PyTorch DataLoader, and how long a device waits.

    pip install -e ".[data]" torch
    python benchmarks/input_speed.py [--path=VIDEOS] [--tfds_dir=DIR]

The DataLoader decodes the same windows of the same mp4 files with the same library, PyAV, in as
many workers, crops and resizes them with the same OpenCV, and takes turns with ours; what is
reported is the median of the ratios of neighbours. It converts frames in PyAV's usual way, and in
the faster one that this project uses, and the faster loader counts. Without --path, files of
320x240 pixels are made by x264 at its defaults. The device that waits is a clock: a step takes a
given time and no processor.
Prints and writes benchmarks/results/input_speed.json. Takes two minutes on two cores.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
import types

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from vdm.data.batches import Batches
from vdm.data.datasets import make_data_set
from vdm.data.moving_digits import MovingDigits

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from configs import bair, folder, ucf101

RESULTS = pathlib.Path(__file__).resolve().parent / "results/input_speed.json"
WORKERS, PREFETCH, BATCH, BATCHES, ROUNDS = os.cpu_count(), 2, 8, 8, 11
FILES, FILE_FRAMES = 40, 120
STEP_SECONDS = (0.05, 0.1, 0.2, 0.4)  # for a batch of 8


class Clips(torch.utils.data.Dataset):
    """The clips of a folder's source, as one writes it for PyTorch.

    Attributes:
      windows: path of the file and timestamps of the frames, for each example.
      size: of a frame.
      is_reused: whether frames are converted by one converter in one thread.
    """

    def __init__(self, windows, size, is_reused):
        self.windows, self.size, self.is_reused = windows, size, is_reused

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        path, timestamps = self.windows[index]
        wanted, frames = set(timestamps), []
        converter = VideoReformatter()
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(timestamps[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    if self.is_reused:
                        frame = converter.reformat(frame, format="rgb24", threads=1)
                        frames.append(self._resized(frame.to_ndarray()))
                    else:
                        frames.append(self._resized(frame.to_ndarray(format="rgb24")))
                    if frame.pts == timestamps[-1]:
                        break
        return torch.from_numpy(np.stack(frames)).float() / 127.5 - 1

    def _resized(self, frame):
        height, width = frame.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = frame[top : top + side, left : left + side]
        return cv2.resize(square, (self.size, self.size), interpolation=cv2.INTER_AREA)


def write_files(path):
    """Videos of a drifting pattern with noise on it."""
    rng = np.random.default_rng(0)
    for index in range(FILES):
        pattern = cv2.resize(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (640, 480))
        with av.open(str(path / f"{index}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for number in range(FILE_FRAMES):
                picture = pattern[number : number + 240, 2 * number : 2 * number + 320]
                noisy = cv2.add(picture, rng.integers(0, 8, picture.shape, dtype=np.uint8))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy)))
            container.mux(stream.encode())


class Recorder:
    """A folder's videos that keep what is asked of them, and give black frames."""

    def __init__(self, reader):
        self._reader = reader
        self.windows = []

    def __len__(self):
        return len(self._reader)

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def open(self, index):
        video = self._reader.open(index)

        def frames(numbers):
            times = [video.timestamps[number] for number in numbers]
            self.windows.append((str(video.path), times))
            return np.zeros((len(numbers), 8, 8, 3), np.uint8)

        return types.SimpleNamespace(num_frames=video.num_frames, frames=frames)


def windows_of(source, count):
    """Path and timestamps of the frames of the first clips."""
    recorder = Recorder(source.reader)
    recorded = dataclasses.replace(source, reader=recorder)
    for index in range(count):
        recorded.example(index)
    return recorder.windows


def seconds_of_ours(source):
    start = time.perf_counter()
    with Batches(source, range(BATCHES), BATCH, num_workers=WORKERS, prefetch=PREFETCH) as batches:
        for _ in range(BATCHES):
            batches.next()
    return time.perf_counter() - start


def seconds_of_pytorch(loader):
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def wait_share(source, step_seconds):
    """The share of the time in which a device that needs `step_seconds` a batch has none."""
    end = time.monotonic()
    with Batches(
        source, range(3 * BATCHES), BATCH, num_workers=WORKERS, prefetch=PREFETCH
    ) as batches:
        batches.next()  # and the device starts
        start = end = time.monotonic()
        batches.seconds_waited = 0.0
        for _ in range(3 * BATCHES - 1):
            end = max(end, time.monotonic()) + step_seconds
            batches.next(meanwhile=lambda end=end: time.sleep(max(0, end - time.monotonic())))
            time.sleep(max(0, end - time.monotonic()))
        return batches.seconds_waited / (time.monotonic() - start)


def against_pytorch(source):
    """Ours and PyTorch's loaders over the same clips, in turns."""
    windows = windows_of(source, BATCH * BATCHES)
    loaders = {
        name: torch.utils.data.DataLoader(
            Clips(windows, source.resolution, is_reused),
            batch_size=BATCH,
            num_workers=WORKERS,
            prefetch_factor=PREFETCH,
            persistent_workers=True,
        )
        for name, is_reused in (("pytorch", False), ("pytorch, one converter", True))
    }
    difference = max(
        float(np.abs(batch.numpy() - source.batch(step, BATCH)["video"]).max())
        for loader in loaders.values()
        for step, batch in enumerate(loader)
    )
    runs = {"vdm": functools.partial(seconds_of_ours, source)}
    runs |= {name: functools.partial(seconds_of_pytorch, x) for name, x in loaders.items()}
    rounds = [{name: run() for name, run in runs.items()} for _ in range(ROUNDS)]
    typical = {name: statistics.median(times[name] for times in rounds) for name in runs}
    peer = min(list(runs)[1:], key=typical.get)
    ratios = [times[peer] / times["vdm"] for times in rounds]
    return {
        "videos_per_second": {name: BATCH * BATCHES / t for name, t in typical.items()},
        "faster_pytorch": peer,
        "speed_over_pytorch": statistics.median(ratios),
        "speed_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "largest_difference_of_255": difference * 127.5,
    }


def sources_of(config, tfds_dir):
    """Each data set by name, with what is not here left out."""
    sources = {
        "moving digits": MovingDigits("train", frames=16, resolution=64),
        "folder": make_data_set(config, "train"),
    }
    config.data.num_images = 8
    sources["folder, with 8 images of other videos"] = make_data_set(config, "train")
    for module in (bair, ucf101):
        prepared = module.get_config()
        prepared.data.tfds_dir = tfds_dir
        try:
            sources[prepared.data.name] = make_data_set(prepared, "train")
        except (ValueError, OSError) as error:
            print(f"left out: {error}")
    return sources


def main(arguments, path):
    config = folder.get_config()
    config.data.path = str(path)
    config.data.test_share = 0.0
    result = {
        "command": "python benchmarks/input_speed.py",
        "hardware": f"cpu, {os.cpu_count()} cores",
        "versions": {
            "av": av.__version__,
            "opencv": cv2.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "workers": WORKERS,
        "clips": "16x64x64 of " + (arguments.path or f"{FILE_FRAMES} frames of 320x240 in mp4"),
        "against_pytorch": against_pytorch(make_data_set(config, "train")),
        "videos_per_second": {},
        "wait_share_of_a_step_of_seconds": {},
    }
    for name, source in sources_of(config, arguments.tfds_dir).items():
        speed = BATCH * BATCHES / statistics.median(seconds_of_ours(source) for _ in range(3))
        result["videos_per_second"][name] = speed
        if name == "folder":
            shares = {str(seconds): wait_share(source, seconds) for seconds in STEP_SECONDS}
            result["wait_share_of_a_step_of_seconds"] = shares
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", default="", help="a folder of .mp4 files")
    parser.add_argument("--tfds_dir", default="", help="where TFDS keeps its data sets")
    parsed = parser.parse_args()
    if parsed.path:
        main(parsed, pathlib.Path(parsed.path))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            write_files(pathlib.Path(temporary))
            main(parsed, pathlib.Path(temporary))
