"""Videos are read from files unchanged, and errors name the file."""

import io
import zipfile

import av
import numpy as np
import pytest
from etils import epath
from PIL import Image

from vdm.video.display import gif_bytes
from vdm.video.video_sets import open_videos


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (3, 4, 6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_are_streamed(tmp_path, colours, save):
    save(tmp_path / "a.npz", video=colours)
    save(tmp_path / "b.npz", video=colours[:1, :, :, :, :1], other=np.zeros(3))
    videos = open_videos(tmp_path, 0)
    assert (len(videos), videos.frames, videos.size) == (4, 4, (6, 8))
    read = list(videos)
    np.testing.assert_array_equal(read[:3], colours)
    np.testing.assert_array_equal(read[3], colours[0, ..., :1].repeat(3, -1))
    np.testing.assert_array_equal(list(open_videos(tmp_path / "a.npz", 2)), colours[:, :2])


def test_folders_of_gifs_and_of_images(tmp_path, colours):
    (tmp_path / "a.gif").write_bytes(gif_bytes(colours[0, ..., :1], scale=1))
    (tmp_path / "b").mkdir()
    for index, frame in enumerate(colours[1]):
        Image.fromarray(frame).save(tmp_path / "b" / f"frame_{index}.png")
    read = list(open_videos(tmp_path, 0))
    np.testing.assert_array_equal(read, [colours[0, ..., :1].repeat(3, -1), colours[1]])


def test_video_files_are_decoded(tmp_path, colours):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 8, 6, "bgr0"
        for frame in colours[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    videos = open_videos(tmp_path, 0)
    assert (videos.frames, videos.size) == (4, (6, 8))
    np.testing.assert_array_equal(next(iter(videos)), colours[0])
    (tmp_path / "b.mkv").write_bytes((tmp_path / "a.mkv").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.mkv (cannot be|has)"):
        open_videos(tmp_path, 0)


def test_errors_name_the_file(tmp_path, colours):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        open_videos(tmp_path / "none", 0)
    with pytest.raises(ValueError, match="real is '', and must be the path of videos"):
        open_videos("", 0, name="real")  # not the working directory
    np.savez(tmp_path / "a.npz", video=colours)
    np.savez(tmp_path / "b.npz", video=colours[:, :3])
    with pytest.raises(ValueError, match=r"b\.npz.* has 3 frames, and 4 are needed"):
        open_videos(tmp_path, 0)
    np.savez(tmp_path / "b.npz", video=colours[:, :, :5])
    with pytest.raises(ValueError, match=r"b\.npz.* is 5 x 8 pixels .* first video is 6 x 8"):
        open_videos(tmp_path, 0)
    np.savez(tmp_path / "b.npz", video=colours.astype(np.float32))
    with pytest.raises(ValueError, match=r"b\.npz holds float32 .* uint8 \[n, frames"):
        open_videos(tmp_path, 0)
    np.savez(tmp_path / "b.npz", videos=colours)
    with pytest.raises(ValueError, match=r"b\.npz has the arrays .*, and `video` is needed"):
        open_videos(tmp_path, 0)


def test_errors_name_the_video_of_a_truncated_archive(tmp_path, colours):
    whole = io.BytesIO()
    np.lib.format.write_array(whole, colours)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("video.npy", whole.getvalue()[: -colours[0].nbytes // 2])
    with pytest.raises(ValueError, match=r"a\.npz ends in video 2 of 3"):
        list(open_videos(tmp_path, 0))


def test_clips_are_cropped_resized_and_evenly_spaced(tmp_path):
    video = np.random.default_rng(1).integers(0, 256, (11, 8, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", video=video[None])
    clips = list(open_videos(tmp_path, 3, frameskip=2, clips_per_video=3, resolution=4))
    # The mean of each 2x2 block of the central square; clips begin at 0, 3 and 6.
    means = video[:, :, 2:10].reshape(11, 4, 2, 4, 2, 3).mean((2, 4))
    for clip, start in zip(clips, (0, 3, 6), strict=True):
        assert np.abs(clip - means[[start, start + 2, start + 4]]).max() <= 0.51


def test_frames_that_are_not_measured_give_a_warning(tmp_path, colours):
    np.savez(tmp_path / "a.npz", video=colours[:1, :2])
    np.savez(tmp_path / "b.npz", video=colours[1:2])
    videos = open_videos(tmp_path, 0)
    assert videos.frames == 2
    (warning,) = videos.warnings
    assert warning.startswith(f"videos of {tmp_path} have up to 4 frames (b.npz)")
    (tmp_path / "a.npz").unlink()
    assert not open_videos(tmp_path, 0).warnings


def test_class_sub_folders_are_read_and_other_files_ignored(tmp_path, colours):
    for index, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.gif").write_bytes(gif_bytes(colours[index, ..., :1], scale=1))
    for name in ("README", "manifest.csv", "video_index.json"):
        (tmp_path / name).write_text("file")
    read = list(open_videos(tmp_path, 0))
    np.testing.assert_array_equal(read, colours[..., :1].repeat(3, -1))


def test_other_files_are_counted_and_the_first_are_named(tmp_path, colours):
    np.save(tmp_path / "b.npy", colours[0])
    assert not open_videos(tmp_path, 0).describe_left_out()
    assert not open_videos(colours, 0).describe_left_out()
    reason = "is no video or image by its name"
    for name, words in (
        ("a.rm", f"1 other file is left out: a.rm {reason}"),
        ("c.heic", f"2 other files are left out: a.rm {reason}; c.heic {reason}"),
        ("d.txt", f"3 other files are left out: a.rm {reason}; c.heic {reason}; ..."),
    ):
        (tmp_path / name).touch()
        assert open_videos(tmp_path, 0).describe_left_out() == words


def test_notes_of_videos_give_a_warning(tmp_path, colours):
    """As in the report of a folder: a rotation that is not applied, or frames that are cut off."""
    first, *rest = (Image.fromarray(frame // 64 * 64) for frame in colours[0])
    for index in range(4):
        duration = [20, 600_000, 20, 20] if index else 20
        first.save(tmp_path / f"{index}.gif", save_all=True, append_images=rest, duration=duration)
    warnings = open_videos(tmp_path, 4).warnings
    note = "shows picture 1 for 600.0 s, of which 1000 frames are kept"
    assert warnings[0] == f"of {tmp_path}, 1.gif {note}; 2.gif {note}; and 1 more have notes"
    assert not open_videos(tmp_path / "0.gif", 4).warnings


def test_equal_clips_of_a_video_give_a_warning(tmp_path, colours):
    frames = colours.reshape(12, *colours.shape[2:])
    np.savez(tmp_path / "long.npz", video=frames[::-1])
    np.savez(tmp_path / "short.npz", video=frames[6:])
    videos = open_videos(tmp_path, 4, clips_per_video=4)
    of_short = [clip.tobytes() for clip in videos][4:]
    assert len(of_short) == 4 and len(set(of_short)) == 3
    assert "short.npz of" in videos.warnings[0] and "has 3 different clips" in videos.warnings[0]
    different = open_videos(tmp_path, 4, clips_per_video=3)
    assert len({clip.tobytes() for clip in different}) == 6
    assert not any("different clips" in warning for warning in different.warnings)


def test_paths_of_other_types_and_names_with_a_tilde(tmp_path, colours, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("~clips.npz", video=colours[:2])
    for path in ("~clips.npz", epath.Path(tmp_path / "~clips.npz")):
        np.testing.assert_array_equal(np.stack(list(open_videos(path, 0))), colours[:2])
