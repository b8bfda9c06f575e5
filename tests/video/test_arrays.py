"""Videos in .npz and .npy files: every layout is read, or refused by name."""

import io
import zipfile

import numpy as np
import pytest

from vdm.video import UnreadableVideoError, find_videos, open_video

_SHAPE = (3, 5, 6, 7)  # videos, frames, height, width


def _videos(channels=3, dtype=np.uint8):
    return np.random.default_rng(channels).integers(0, 256, (*_SHAPE, channels)).astype(dtype)


def _save_npy(path, array):
    np.save(path, array)


def _save_npz(path, array):
    np.savez(path, video=array)


def _save_compressed(path, array):
    np.savez_compressed(path, video=array)


_WRITERS = {"a.npy": _save_npy, "a.npz": _save_npz, "compressed.npz": _save_compressed}


@pytest.mark.parametrize("name", _WRITERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_several_videos_by_index(tmp_path, name, channels):
    videos, path = _videos(channels), tmp_path / name
    _WRITERS[name](path, videos)
    for index in (2, 0, 1, 0):
        video = open_video(path, index)
        assert (video.num_frames, video.height, video.width) == (5, 6, 7)
        assert video.frame_rate is None and video.times is None
        expected = videos[index].repeat(3 // channels, -1)
        for wanted in ([4], [0], [3, 1], [2, 2, 0, 4], list(range(5)), []):
            frames = video.frames(wanted)
            assert frames.dtype == np.uint8 and frames.shape == (len(wanted), 6, 7, 3)
            np.testing.assert_array_equal(frames, expected[wanted])
        for bad in (5, -1):
            with pytest.raises(IndexError, match=name):
                video.frames([bad])
    names = [f"{name}#{index}" for index in range(3)]
    assert [found.name for found in find_videos(tmp_path).videos] == names
    assert [found.index for found in find_videos(path).videos] == [0, 1, 2]
    for bad in (None, 3, -1):
        with pytest.raises(ValueError, match=name):
            open_video(path, bad)


@pytest.mark.parametrize("name", _WRITERS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dimensions", [4, 5])
def test_one_video_in_either_order(tmp_path, name, order, dimensions):
    video = _videos()[0]
    stored = np.array(video if dimensions == 4 else video[None], order=order)
    _WRITERS[name](tmp_path / name, stored)
    try:
        opened = open_video(tmp_path / name)
    except UnreadableVideoError as error:
        # A compressed array cannot be read by frames in this order.
        assert (name, order) == ("compressed.npz", "F")
        assert "Fortran" in error.reason and name in str(error)
    else:
        np.testing.assert_array_equal(opened.frames([4, 0, 2]), video[[4, 0, 2]])
        assert [found.name for found in find_videos(tmp_path).videos] == [name]


def test_other_arrays_beside_the_videos_are_ignored(tmp_path):
    np.savez(tmp_path / "a.npz", label=np.arange(3), video=_videos(), other=np.zeros(2))
    np.testing.assert_array_equal(open_video(tmp_path / "a.npz", 1).frames([2])[0], _videos()[1, 2])


_WRONG = {
    "float": _videos(dtype=np.float32),
    "int64": _videos(dtype=np.int64),
    "bool": _videos() > 127,
    "two channels": _videos(2),
    "alpha": _videos(4),
    "channels first": np.moveaxis(_videos(), -1, 2),
    "no channels": _videos()[0, ..., 0],
    "one axis": np.zeros(9, np.uint8),
    "scalar": np.uint8(3),
    "empty": np.zeros((0, 5, 6, 7, 3), np.uint8),
    "no frames": np.zeros((2, 0, 6, 7, 3), np.uint8),
    "objects": np.array([None, 1], object),
    "structured": np.zeros(4, [("a", "u1"), ("b", "u1")]),
    "text": np.array(["a", "b"]),
}


@pytest.mark.parametrize("kind", _WRONG)
@pytest.mark.parametrize("name", _WRITERS)
def test_names_files_of_other_layouts(tmp_path, name, kind):
    _WRITERS[name](tmp_path / name, _WRONG[kind])
    with pytest.raises(UnreadableVideoError, match=name) as caught:
        open_video(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    found = find_videos(tmp_path)
    assert not found.videos and list(found.left_out) == [name]
    if kind in ("float", "alpha", "no channels"):
        assert "uint8" in caught.value.reason and "3" in caught.value.reason


@pytest.mark.parametrize(
    "shape", [(1, 2**40, 2**22, 2**22, 3), (-1, 5, 6, 7, 3), (1, -5, 6, -7, 3), (2**70, 6, 7, 3)]
)
def test_names_headers_of_impossible_shapes(tmp_path, shape):
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(5 * 6 * 7 * 3))
    assert list(find_videos(tmp_path).left_out) == ["a.npy"]
    with pytest.raises(UnreadableVideoError, match=r"a\.npy (holds|ends in)"):
        open_video(tmp_path / "a.npy", 0)


def test_lists_the_arrays_of_an_archive_without_videos(tmp_path):
    np.savez(tmp_path / "a.npz", frames=_videos(), label=np.arange(3))
    with pytest.raises(UnreadableVideoError, match=r"a\.npz .*frames.*label.*video"):
        open_video(tmp_path / "a.npz")


def _read_all(path):
    video = open_video(path, 0)
    return video.frames(range(video.num_frames))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", _WRITERS)
def test_names_truncated_files(tmp_path, name, share):
    path = tmp_path / name
    _WRITERS[name](path, _videos()[:1])
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableVideoError, match=name):
        _read_all(path)


def test_names_a_damaged_member(tmp_path):
    path = tmp_path / "a.npz"
    _save_compressed(path, _videos())
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(UnreadableVideoError, match=r"a\.npz"):
        for index in range(3):
            open_video(path, index).frames(range(5))


@pytest.mark.parametrize(
    "content", [b"", b"no archive at all", b"PK\x03\x04", b"\x93NUMPY\x01\x00"]
)
@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_names_files_of_other_contents(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableVideoError, match=name):
        open_video(tmp_path / name)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_by_other_zip_programs(tmp_path, method):
    """With directories, comments and other methods of compression."""
    buffer = io.BytesIO()
    np.save(buffer, _videos())
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.comment = b"a comment"
        archive.writestr("notes.txt", "no array")
        archive.writestr("video.npy", buffer.getvalue())
    for index in range(3):
        frames = open_video(tmp_path / "a.npz", index).frames(range(5))
        np.testing.assert_array_equal(frames, _videos()[index])


@pytest.mark.parametrize("name", _WRITERS)
def test_names_a_file_that_shrinks_after_opening(tmp_path, name):
    path = tmp_path / name
    _WRITERS[name](path, np.tile(_videos(), (1, 400, 1, 1, 1)))
    video = open_video(path, 2)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UnreadableVideoError, match=name):
        video.frames([1999])


@pytest.mark.parametrize("name", _WRITERS)
def test_names_a_file_that_is_replaced_after_opening(tmp_path, name):
    """The videos of the new file may begin elsewhere, or have another type."""
    path = tmp_path / name
    _WRITERS[name](path, _videos())
    video = open_video(path, 0)
    expected = video.frames([0])
    _WRITERS[name](tmp_path / f"new_{name}", _videos().repeat(2, axis=0))
    (tmp_path / f"new_{name}").replace(path)
    with pytest.raises(UnreadableVideoError, match=rf"{name} has changed since it was opened"):
        video.frames([0])
    np.testing.assert_array_equal(open_video(path, 0).frames([0]), expected)
