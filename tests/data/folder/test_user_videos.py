import numpy as np
import pytest
from PIL import Image

from vdm.data.folder.user_videos import load_videos
from vdm.video.display import gif_bytes

_SIZE = {"resolution": 6}


def _random(*shape):
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def _write_images(folder, video, suffix=".png"):
    """Writes one image per frame; the natural order of the names is not the alphabetical order."""
    folder.mkdir()
    for index, frame in enumerate(video):
        Image.fromarray(frame.squeeze()).save(folder / f"frame_{index}{suffix}")
    return folder


def _grey(video):
    """Converts [..., 3] to [..., 1] by ITU-R 601-2, as Pillow documents mode "L"."""
    return (video @ np.array([299, 587, 114]) / 1000)[..., None]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3, 4], [0, 0, 1, 1, 1, 2], [0, 1, 2, 2, 2], [3, 0, 0, 3, 3]]
)
def test_gifs_written_by_vdm_keep_repeated_frames(tmp_path, channels, order):
    video = _random(5, 6, 6, channels)[order]
    path = tmp_path / "a.GIF"
    path.write_bytes(gif_bytes(video, scale=1))
    for num_frames in (len(order), 3):
        read = load_videos(path, num_frames=num_frames, channels=channels, **_SIZE)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, video[None, :num_frames])


def test_durations_of_other_gifs_are_multiples_of_the_shortest(tmp_path):
    frames = _random(4, 6, 6, 1)
    pictures = [Image.fromarray(frame[..., 0]) for frame in frames]
    for durations, expected in (
        ([30, 40, 50, 30], [0, 1, 2, 2, 3]),  # to the nearest: 4/3 is once, 5/3 twice
        ([0, 100, 0, 300], [0, 1, 2, 3, 3, 3]),
        ([0, 0, 0, 0], [0, 1, 2, 3]),
        ([20, 655350, 20, 20], [0, *[1] * 50]),
    ):
        path = tmp_path / "a.gif"
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations)
        read = load_videos(path, num_frames=len(expected), channels=1, **_SIZE)
        np.testing.assert_array_equal(read[0], frames[expected])


def test_a_gif_whose_frames_are_patches_is_composited(tmp_path):
    frames = np.repeat(_random(1, 6, 6, 1), 3, axis=0)
    frames[1:, 2, 3] ^= 255
    frames[2, 4, 1:3] ^= 255
    path = tmp_path / "a.gif"
    path.write_bytes(gif_bytes(frames, scale=1))
    with Image.open(path) as picture:
        picture.seek(1)
        assert picture.tile[0][1] != (0, 0, 6, 6)  # Pillow stored only the patch that differs
    read = load_videos(path, num_frames=3, channels=1, **_SIZE)
    np.testing.assert_array_equal(read[0], frames)


def test_a_folder_of_images_is_a_video_in_natural_order(tmp_path):
    video = _random(12, 6, 6, 3)
    folder = _write_images(tmp_path / "a", video)
    (folder / ".hidden").write_text("no image")
    for path in (folder, tmp_path):  # the folder itself, and a folder with it alone
        read = load_videos(path, num_frames=11, channels=3, **_SIZE)
        np.testing.assert_array_equal(read, video[None, :11])

    flat = np.broadcast_to(_random(4, 1, 1, 1), (4, 8, 8, 1))  # which JPEG stores nearly exactly
    for suffix in (".jpg", ".JPEG"):
        folder = _write_images(tmp_path / suffix[1:], flat, suffix)
        read = load_videos(folder, num_frames=4, resolution=8, channels=1)
        np.testing.assert_allclose(read[0].astype(int), flat, atol=1)


def test_a_folder_of_every_kind_is_in_natural_order(tmp_path):
    videos = _random(5, 3, 6, 6, 1)
    np.savez(tmp_path / "video_9.npz", video=videos[1:3], seed=0)
    _write_images(tmp_path / "video_10", videos[3])
    (tmp_path / "video_2.gif").write_bytes(gif_bytes(videos[0], scale=1))
    (tmp_path / "video_11.gif").write_bytes(gif_bytes(videos[4], scale=1))
    (tmp_path / ".DS_Store").write_text("hidden")
    read = load_videos(tmp_path, num_frames=3, channels=1, **_SIZE)
    np.testing.assert_array_equal(read, videos)


def test_channels_are_converted_for_every_kind_of_file(tmp_path):
    colour = _random(3, 6, 6, 3)
    np.savez(tmp_path / "a.npz", video=colour[None])
    (tmp_path / "b.gif").write_bytes(gif_bytes(colour, scale=1))
    _write_images(tmp_path / "c", colour)
    read = load_videos(tmp_path, num_frames=3, channels=1, **_SIZE)
    assert read.shape == (3, 3, 6, 6, 1)
    assert np.abs(read - _grey(colour)).max() < 0.51
    np.testing.assert_array_equal(read[1:], read[:-1])

    grey = colour[..., :1]
    np.savez(tmp_path / "a.npz", video=grey[None])
    (tmp_path / "b.gif").write_bytes(gif_bytes(grey, scale=1))
    for index, frame in enumerate(grey):
        Image.fromarray(frame[..., 0]).save(tmp_path / "c" / f"frame_{index}.png")
    read = load_videos(tmp_path, num_frames=3, channels=3, **_SIZE)
    np.testing.assert_array_equal(read, np.stack([np.concatenate([grey] * 3, axis=-1)] * 3))


def test_transparent_pixels_are_black(tmp_path):
    pixels = _random(6, 6, 4)
    pixels[..., 3] = np.where(np.arange(6) < 3, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = load_videos(tmp_path, num_frames=1, channels=3, **_SIZE)
    np.testing.assert_array_equal(read[0, 0, :, :3], 0)
    np.testing.assert_array_equal(read[0, 0, :, 3:], pixels[:, 3:, :3])


def _missing(path):
    return path / "nowhere"


def _empty(path):
    (path / ".hidden").touch()
    return path


def _film(path):
    (path / "film.mp4").touch()
    return path


def _image_alone(path):
    return _write_images(path / "a", _random(4, 6, 6, 1)) / "frame_0.png"


def _short_gif(path):
    (path / "x.gif").write_bytes(gif_bytes(_random(3, 6, 6, 1), scale=1))
    return path


def _still_gif(path):
    (path / "x.gif").write_bytes(gif_bytes(np.zeros((4, 6, 6, 1), np.uint8), scale=1))
    return path


def _short_folder(path):
    return _write_images(path / "a", _random(3, 6, 6, 1))


def _mixed_sizes(path):
    folder = _write_images(path / "a", _random(4, 6, 6, 1))
    Image.fromarray(_random(6, 5)).save(folder / "frame_2.png")
    return folder


def _sixteen_bits(path):
    Image.fromarray(_random(6, 6).astype(np.uint16)).save(path / "frame_0.png")
    return _repeated(path)


def _cut_png(path):
    Image.fromarray(_random(6, 6)).save(path / "frame_0.png")
    data = (path / "frame_0.png").read_bytes()
    (path / "frame_0.png").write_bytes(data[: len(data) // 2])
    return _repeated(path)


def _repeated(path):
    for index in (1, 2, 3):
        (path / f"frame_{index}.png").write_bytes((path / "frame_0.png").read_bytes())
    return path


def _cut_gif(path):
    (path / "x.gif").write_bytes(gif_bytes(_random(4, 6, 6, 1), scale=1)[:-20])
    return path / "x.gif"


def _png_called_gif(path):
    Image.fromarray(_random(6, 6)).save(path / "x.gif", format="PNG")
    return path / "x.gif"


def _no_archive(path):
    (path / "x.npz").write_text("no archive")
    return path / "x.npz"


def _npz(**arrays):
    def write(path):
        np.savez(path / "x.npz", **arrays)
        return path / "x.npz"

    return write


@pytest.mark.parametrize(
    "write, sentence",
    [
        (_missing, "nowhere does not exist"),
        (_empty, "has no videos: .hidden is hidden"),
        (_film, "film.mp4 is empty"),
        (_image_alone, "frame_0.png has 1 frame, and 4 are needed"),
        (_short_gif, "x.gif has 3 frames, and 4 are needed"),
        (_still_gif, "x.gif has 1 frame, and 4 are needed"),
        (_short_folder, "a has 3 frames, and 4 are needed"),
        (_mixed_sizes, r"a has images of different sizes: frame_2.png is 6 x 5 pixels \(height"),
        (_sixteen_bits, "frame_0.png has pixels of .* I;16, and 8 bits a channel are needed"),
        (_cut_png, "frame_0.png cannot be read, it is damaged"),
        (_cut_gif, "x.gif cannot be read, it is damaged"),
        (_png_called_gif, "x.gif has 1 frame, and 4 are needed"),
        (_no_archive, "x.npz cannot be read, .* not a zip file"),
        (_npz(a=0, b=1), r"x.npz has the arrays \['a', 'b'\], and `video` is needed"),
        (_npz(video=np.zeros((2, 4, 6, 6, 1))), r"x.npz holds float64 .*, and uint8 \[n, frames"),
        (_npz(video=_random(4, 6, 6)), r"x.npz holds uint8 \(4, 6, 6\), and uint8 \[n, frames"),
        (_npz(video=_random(2, 4, 6, 6, 2)), r"\(2, 4, 6, 6, 2\), .* 1 or 3 channels is needed"),
        (
            _npz(video=_random(0, 4, 6, 6, 1)),
            r"x.npz holds no frames, its shape is \(0, 4, 6, 6, 1\)",
        ),
        (_npz(video=_random(2, 3, 6, 6, 1)), "x.npz has 3 frames, and 4 are needed"),
    ],
)
def test_errors_are_one_sentence_that_names_the_file(tmp_path, write, sentence):
    path = write(tmp_path)
    kind = FileNotFoundError if write is _missing else ValueError
    with pytest.raises(kind, match=sentence) as caught:
        load_videos(path, num_frames=4, channels=1, **_SIZE)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_observed_videos_are_cropped_and_resized_as_training_data(tmp_path):
    video = _random(3, 12, 20, 3)
    np.savez(tmp_path / "a.npz", video=video)
    (read,) = load_videos(tmp_path, num_frames=3, resolution=6, channels=3)
    # The mean of each 2x2 block of the square in the middle.
    means = video[:, :, 4:16].reshape(3, 6, 2, 6, 2, 3).mean((2, 4))
    assert np.abs(read - means).max() <= 0.51


def test_foreign_files_are_ignored(tmp_path):
    folder = _write_images(tmp_path / "a", _random(4, 6, 6, 1))
    (folder / "notes.txt").touch()
    (tmp_path / "README.md").touch()
    assert load_videos(tmp_path, num_frames=4, channels=1, **_SIZE).shape == (1, 4, 6, 6, 1)


def test_one_bad_video_among_good_ones_is_an_error(tmp_path):
    for index, count in enumerate((4, 4, 2)):
        (tmp_path / f"{index}.gif").write_bytes(gif_bytes(_random(count, 6, 6, 1), scale=1))
    with pytest.raises(ValueError, match=r"2\.gif has 2 frames, and 4 are needed"):
        load_videos(tmp_path, num_frames=4, channels=1, **_SIZE)
    with pytest.raises(ValueError, match="channels is 2, and must be 1 or 3"):
        load_videos(tmp_path, num_frames=2, channels=2, **_SIZE)
