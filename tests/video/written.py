"""Video files that ffmpeg writes, and their frames as ffmpeg decodes them."""

import os
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest

HEIGHT, WIDTH = 48, 64
_BITS = 10


def run_ffmpeg(*arguments, stdin: bytes = b"", log_level: str = "error") -> bytes:
    """Standard output of imageio-ffmpeg's binary; skips the test where that is missing."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio_ffmpeg is missing")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", log_level]
    command += map(os.fspath, arguments)
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH, shade: int = 0) -> np.ndarray:
    """A frame uint8 [height, width, 3] that shows its number in stripes, dark for 0, bright for 1.

    Args:
      number: 0 to 1023.
      height: in pixels.
      width: in pixels.
      shade: 0 to 95, different for each video.
    """
    bits = np.array([number >> bit & 1 for bit in range(_BITS)])
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:] = (shade + 160 * bits[np.arange(width) * _BITS // width])[:, None]
    # Neither grey nor symmetric, so that wrong colours, flips and rotations show.
    frame[: height // 4, :, 0] = 128
    frame[: height // 4, :, 2] = 32
    frame[: height // 4, : width // 4] = (40, 220, 90)
    return frame


def moving(
    count: int, height: int = HEIGHT, width: int = WIDTH, *, shade: int = 0, seed: int = 0
) -> np.ndarray:
    """Numbered frames uint8 [count, height, width, 3] with a texture that moves.

    Encoders predict the texture in both directions, so that a wrong reference frame shows.
    """
    texture = np.random.default_rng(seed).integers(0, 64, (height, width, 1), dtype=np.uint8)
    frames = [
        numbered(n, height, width, shade) // 2 + np.roll(texture, (n, 2 * n), (0, 1)) + n % 7
        for n in range(count)
    ]
    return np.stack(frames).astype(np.uint8)


def encode(path, frames: np.ndarray, *arguments, rate=25):
    """Writes frames uint8 [n, height, width, 3] by ffmpeg with these output options."""
    height, width = frames.shape[1:3]
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate))
    run_ffmpeg(*raw, "-i", "-", *arguments, path, stdin=frames.tobytes())
    return path


def remux(path, source, *arguments, before=()):
    """Copies the streams of a file into another one, with options before and after the input."""
    run_ffmpeg(*before, "-i", source, "-map", "0", "-c", "copy", *arguments, path)
    return path


def encode_with_times(path, frames: np.ndarray, times, *, codec="libx264", options=None):
    """Writes frames by PyAV, each at its time in units of 1/1000 s."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def reference_frames(path, *, stream: str = "0:v:0", autorotate: bool = True) -> np.ndarray:
    """All frames of a file in display order, uint8 [n, height, width, 3], decoded by ffmpeg."""
    # In threads, ffmpeg's decoder of Theora gives other pixels each time.
    before = ("-threads", "1", *(() if autorotate else ("-noautorotate",)))
    target = ("-map", stream, "-fps_mode", "passthrough", "-pix_fmt", "rgb24")
    pipe = run_ffmpeg(
        *before, "-i", path, *target, "-f", "image2pipe", "-c:v", "ppm", "-", log_level="fatal"
    )
    return np.stack(list(_images(pipe)))


def reference_on_black(path, height: int, width: int) -> np.ndarray:
    """All frames of a transparent file over black, uint8 [n, height, width, 3], by ffmpeg."""
    target = ("-map", "0:v:0", "-fps_mode", "passthrough", "-pix_fmt", "rgba", "-f", "rawvideo")
    raw = np.frombuffer(run_ffmpeg("-i", path, *target, "-", log_level="fatal"), np.uint8)
    raw = raw.reshape(-1, height, width, 4).astype(int)
    return np.round(raw[..., :3] * raw[..., 3:] / 255).astype(np.uint8)


def _images(pipe: bytes):
    """The images uint8 [height, width, 3] of concatenated PPM files."""
    start = 0
    while start < len(pipe):
        header = pipe[start : start + 64].split(b"\n", 3)[:3]
        width, height = map(int, header[1].split())
        start += sum(map(len, header)) + 3
        size = height * width * 3
        yield np.frombuffer(pipe, np.uint8, size, start).reshape(height, width, 3)
        start += size


def assert_distinct(frames: np.ndarray) -> None:
    """Fails where two frames are equal, so that exchanging them would not show."""
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def assert_frames(video, expected: np.ndarray, indices=None) -> None:
    """Fails where frames read singly or in pairs differ from the expected ones.

    Args:
      video: what `open_video` returns.
      expected: uint8 [num_frames, height, width, 3].
      indices: frames to read; all of them by default.
    """
    assert (video.num_frames, video.height, video.width) == expected.shape[:3]
    count = len(expected)
    wrong = {}
    for index in range(count) if indices is None else indices:
        for wanted in ([index], [index, (index + 7) % count]):
            got = video.frames(wanted)
            assert got.dtype == np.uint8 and got.shape == (len(wanted), *expected.shape[1:])
            difference = np.abs(got.astype(int) - expected[wanted]).max((1, 2, 3)).tolist()
            if any(difference):
                wrong[tuple(wanted)] = difference
    assert not wrong, f"largest differences of pixels: {wrong}"
    jumbled = [count - 1, 0, count // 2, 0]
    np.testing.assert_array_equal(video.frames(jumbled), expected[jumbled])
