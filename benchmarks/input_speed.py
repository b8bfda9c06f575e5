"""Input speed of each data set, against a PyTorch DataLoader, and the waiting time of a device.

    pip install -e ".[data]" torch
    python benchmarks/input_speed.py [--path=VIDEOS] [--tfds_dir=DIR]

The DataLoader decodes the same clips of the same mp4 files with PyAV and the same number of
workers, and crops and resizes them with OpenCV. Two loaders are measured: one converts frames in
PyAV's usual way, and one in the faster way of this project. The faster loader counts. The runs are
interleaved. The result is the median of the ratios within a round. Without --path, x264 encodes
files of 320x240 pixels. The waiting device is simulated: a step takes a fixed time and no CPU.

Prints and writes benchmarks/results/input_speed.json. Takes two minutes on two cores.
"""

import argparse
import collections
import os
import pathlib
import statistics
import sys
import tempfile
import time
import types
from functools import partial
from unittest import mock

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from measuring import ROOT, compared, interleaved, write_result

from vdm.data.batches import Batches
from vdm.data.datasets import make_data_set
from vdm.data.moving_digits import MovingDigits

sys.path.insert(0, str(ROOT))
from configs import bair, folder, ucf101

WORKERS, PREFETCH, BATCH, BATCHES, ROUNDS = os.cpu_count(), 2, 8, 8, 11
FILES, FILE_FRAMES = 40, 120
STEP_SECONDS = (0.05, 0.1, 0.2, 0.4)  # per batch


class Clips(torch.utils.data.Dataset):
    """A PyTorch data set of clips (path, timestamps) at a size; may reuse one frame converter."""

    def __init__(self, clips, size, reuses_converter):
        self.clips, self.size, self.reuses_converter = clips, size, reuses_converter

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        path, timestamps = self.clips[index]
        remaining, frames = set(timestamps), []
        converter = VideoReformatter()
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(timestamps[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in remaining:
                    if self.reuses_converter:
                        frame = converter.reformat(frame, format="rgb24", threads=1)
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
    """Writes videos of a moving pattern with noise."""
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


def clips_of(source, count):
    """Returns the path and the timestamps of the first clips, without decoding them."""
    open_video, clips = source.reader.open, []

    def open_recorded(_, index):
        video = open_video(index)

        def frames(numbers, resolution):
            clips.append((str(video.path), [video.timestamps[number] for number in numbers]))
            return np.zeros((len(numbers), resolution, resolution, 3), np.uint8)

        return types.SimpleNamespace(num_frames=video.num_frames, frames=frames)

    with mock.patch.object(type(source.reader), "open", open_recorded):
        for index in range(count):
            source.example(index)
    return clips


def read_batches(source):
    with Batches(source, range(BATCHES), BATCH, num_workers=WORKERS, prefetch=PREFETCH) as batches:
        for _ in range(BATCHES):
            batches.next()


def wait_share(source, step_seconds):
    """Returns the share of time that a device with steps of `step_seconds` waits for batches."""
    steps = range(3 * BATCHES)
    with Batches(source, steps, BATCH, num_workers=WORKERS, prefetch=PREFETCH) as batches:
        batches.next()  # the device starts
        start = end = time.monotonic()
        batches.seconds_waited = 0.0
        for _ in steps[1:]:
            end = max(end, time.monotonic()) + step_seconds
            batches.next(meanwhile=lambda end=end: time.sleep(max(0, end - time.monotonic())))
            time.sleep(max(0, end - time.monotonic()))
        return batches.seconds_waited / (time.monotonic() - start)


def against_pytorch(source):
    """Compares our pipeline with PyTorch's loaders on the same clips."""
    clips = clips_of(source, BATCH * BATCHES)
    loaders = {
        name: torch.utils.data.DataLoader(
            Clips(clips, source.resolution, reuses_converter),
            batch_size=BATCH,
            num_workers=WORKERS,
            prefetch_factor=PREFETCH,
            persistent_workers=True,
        )
        for name, reuses_converter in (("pytorch", False), ("pytorch, one converter", True))
    }
    difference = max(
        float(np.abs(batch.numpy() - source.batch(step, BATCH)["video"]).max())
        for loader in loaders.values()
        for step, batch in enumerate(loader)
    )
    runs = {name: partial(collections.deque, loader, 0) for name, loader in loaders.items()}
    times = interleaved({"vdm": partial(read_batches, source)} | runs, ROUNDS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peer = min(runs, key=medians.get)
    # The ratio of speeds is PyTorch's time over ours.
    speed = compared(times, "vdm")[peer]["time_over_reference"]
    return {
        "videos_per_second": {name: BATCH * BATCHES / median for name, median in medians.items()},
        "faster_pytorch": peer,
        "speed_over_pytorch": speed["median"],
        "speed_quartiles": speed["quartiles"],
        "largest_difference_of_255": difference * 127.5,
    }


def make_sources(path, tfds_dir):
    """Returns each data set by name, except for unavailable ones."""
    config = folder.get_config()
    config.data.update(path=str(path), test_share=0.0)
    sources = {
        "moving digits": MovingDigits("train", frames=16, resolution=64),
        "folder": make_data_set(config, "train"),
    }
    config.data.num_images = 8
    sources["folder, with 8 images of other videos"] = make_data_set(config, "train")
    for module in (bair, ucf101):
        config = module.get_config()
        config.data.tfds_dir = tfds_dir
        try:
            sources[config.data.name] = make_data_set(config, "train")
        except (ValueError, OSError) as error:
            print(f"left out: {error}")
    return sources


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", default="", help="a folder of .mp4 files")
    parser.add_argument("--tfds_dir", default="", help="folder of prepared TFDS data sets")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if not flags.path:
            write_files(pathlib.Path(temporary))
        sources = make_sources(flags.path or temporary, flags.tfds_dir)
        times = interleaved({name: partial(read_batches, sources[name]) for name in sources}, 3)
        waits = {str(step): wait_share(sources["folder"], step) for step in STEP_SECONDS}
        result = {
            "workers": WORKERS,
            "clips": "16x64x64 of " + (flags.path or f"{FILE_FRAMES} frames of 320x240 in mp4"),
            "against_pytorch": against_pytorch(sources["folder"]),
            "videos_per_second": {
                name: BATCH * BATCHES / statistics.median(values) for name, values in times.items()
            },
            "wait_share_of_a_step_of_seconds": waits,
        }
    write_result("input_speed", result, "av", "opencv-python-headless", "torch")


if __name__ == "__main__":
    main()
