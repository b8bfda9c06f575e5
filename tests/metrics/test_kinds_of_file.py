"""The distance between equal videos in two kinds of file is 0."""

import jax
import numpy as np
import pytest
from PIL import Image

from tests.video.written import encode
from vdm.metrics import features
from vdm.metrics.__main__ import parse, run
from vdm.video.display import gif_bytes
from vdm.video.index import index_folder
from vdm.video.video_sets import open_videos

# Lossless RGB codecs of ffmpeg.
_CODECS = {
    "mkv": ("-c:v", "ffv1", "-pix_fmt", "bgr0"),
    "mp4": ("-c:v", "libx264rgb", "-qp", "0", "-bf", "2", "-g", "4"),
    "avi": ("-c:v", "huffyuv", "-pix_fmt", "rgb24"),
}
_KINDS = (*_CODECS, "gif", "apng", "webp", "frames", "npy", "npz")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder of the same videos per kind of file, and their pixels."""
    # Few colours, so that a GIF is lossless; random pixels, so that shifts and flips show.
    rng = np.random.default_rng(0)
    videos = 60 * rng.integers(0, 4, (4, 9, 16, 24, 3)).astype(np.uint8)
    root = tmp_path_factory.mktemp("sets")
    for kind in _KINDS:
        (root / kind).mkdir()
        for name, video in zip("abcd", videos, strict=True):
            path = root / kind / f"{name}.{kind}"
            first, *rest = map(Image.fromarray, video)
            if kind in _CODECS:
                encode(path, video, *_CODECS[kind])
            elif kind == "gif":
                path.write_bytes(gif_bytes(video, scale=1))
            elif kind == "apng":
                first.save(path, "PNG", save_all=True, append_images=rest, duration=40)
            elif kind == "webp":
                first.save(path, save_all=True, append_images=rest, duration=40, lossless=True)
            elif kind == "frames":
                path.mkdir()
                for number, frame in enumerate([first, *rest]):
                    frame.save(path / f"frame_{number}.png")
            elif kind == "npy":
                np.save(path, video)
        if kind == "npz":
            np.savez_compressed(root / kind / "all.npz", video=videos)
    return root, videos


@pytest.mark.parametrize("kind", _KINDS)
def test_a_resolution_takes_the_mean_of_each_block_of_the_central_square(sets, kind):
    root, videos = sets
    squares = videos[:, :, :, 4:20].reshape(4, 9, 8, 2, 8, 2, 3)
    means = np.floor(squares.mean((3, 5)) + 0.5)
    requested = [7, 0, 7, 3]
    for video, expected in zip(index_folder(root / kind).videos.values(), means, strict=True):
        np.testing.assert_array_equal(video.frames(requested, 8), expected[requested])
        assert video.frames([], 8).shape == (0, 8, 8, 3)
        with pytest.raises(IndexError, match=r"has 9 frames, and \[0, 9\] are requested"):
            video.frames([0, 9], 8)


class Projection:
    """Features: a random projection of all pixels."""

    name, digest, min_frames = "i3d", "of a projection", 9

    def __call__(self, videos):
        weights = np.random.default_rng(1).normal(size=(videos[0].size, 3))
        return {"features": np.float32(videos.reshape(len(videos), -1) / 255 @ weights)}


def _fvd(real, generated):
    flags = parse([f"--real={real}", f"--generated={generated}", "--batch_size=4"])
    result = run(flags)
    assert result["real"]["videos"] == result["generated"]["videos"] == 4
    return result["fvd"]


@pytest.mark.parametrize("kind", _KINDS)
def test_the_distance_to_the_same_pixels_is_0(sets, monkeypatch, kind):
    root, videos = sets
    np.testing.assert_array_equal(list(open_videos(root / kind, 0)), videos)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(jax.local_device_count()))
    monkeypatch.setattr(features, "make_extractors", lambda protocol: {"i3d": Projection()})
    other = root / "other.npz"
    np.savez(other, video=videos[:, ::-1])
    scale = _fvd(root / kind, other)
    # Not exactly 0: the distance is a difference of traces, each rounded in float64.
    assert scale > 100 and _fvd(root / kind, root / "npz") < 1e-12 * scale


@pytest.mark.slow
def test_the_fvd_does_not_depend_on_the_kind_of_file(sets, monkeypatch):
    root, videos = sets
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(jax.local_device_count()))
    try:
        extractor = features.make_extractor("i3d")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(features, "make_extractors", lambda protocol: {"i3d": extractor})
    trace = np.trace(np.cov(extractor(videos)["features"], rowvar=False))
    assert _fvd(root / "mp4", root / "gif") < 1e-6 * trace
