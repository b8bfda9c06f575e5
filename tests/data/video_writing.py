"""Writes video files whose frames encode their numbers, in any container."""

from fractions import Fraction

import av
import numpy as np

_BITS = 10


def numbered(number, height=48, width=64, shade=0):
    """Returns a frame uint8 [height, width, 3] with a dark or bright stripe per bit of its number.

    Args:
      number: 0 to 1023.
      height: in pixels.
      width: in pixels.
      shade: 0 to 95, different per video.
    """
    bits = np.array([number >> bit & 1 for bit in range(_BITS)])
    columns = np.resize(bits, _BITS)[np.arange(width) * _BITS // width]
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:] = (shade + 160 * columns)[:, None]
    # Coloured and vertically asymmetric, so that wrong colours and orientations show.
    frame[: height // 4, :, 0] = 128
    frame[: height // 4, :, 2] = 32
    return frame


def number_of(frame):
    """Returns the number that a frame of any size and full width encodes."""
    width = frame.shape[1]
    centres = ((np.arange(_BITS) + 0.5) * width / _BITS).astype(int)
    stripes = frame[frame.shape[0] // 2 :, centres].mean((0, 2))
    bits = stripes > stripes.min() + 80
    return int(sum(1 << bit for bit in range(_BITS) if bits[bit]))


def write_video(path, frames, *, codec="libx264", pix_fmt="yuv420p", times=None, options=None):
    """Writes frames uint8 [height, width, 3]; times in 1/100 s, by default 25 per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels)
            if times is not None:
                frame.pts, frame.time_base = times[number], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path, codec="aac"):
    """Writes a file with one second of silence and no video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        for start in range(0, 44100, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
