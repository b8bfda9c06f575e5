"""Order and content of clips, on videos in memory whose pixels encode video and frame."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from tests.data.names import clip_names
from vdm.data.captions.word_vectors import encode_caption
from vdm.data.clips import ClipDataSet
from vdm.video.pixels import centre_crop, resize_by_area


class _Video:
    def __init__(self, pixels):
        self._pixels = pixels
        self.num_frames = len(pixels)

    def frames(self, frames, resolution):
        return resize_by_area(centre_crop(self._pixels[list(frames)]), resolution)


class Numbered:
    """`count` videos of 2x2 pixels: frame t of video i is [i, t, 0] left and [i, t, 255] right."""

    def __init__(self, count, frames=20):
        self._shape = (count, frames)

    def __len__(self):
        return self._shape[0]

    def open(self, index):
        pixels = np.zeros((self._shape[1], 2, 2, 3), np.uint8)
        pixels[..., 0] = index
        pixels[..., 1] = np.arange(self._shape[1])[:, None, None]
        pixels[..., 1, 2] = 255
        return _Video(pixels)

    def name(self, index):
        return f"video_{index}"

    def label(self, index):
        return index % 7

    def caption(self, index):
        return f"number {index}"


class Driven(Numbered):
    """`Numbered` videos whose frame t of video i has the action (i, t)."""

    def actions(self, index):
        times = np.arange(self._shape[1])
        return np.stack([np.full_like(times, index), times], axis=1)


def _source(count=11, frames=4, **settings):
    return ClipDataSet(Numbered(count), seed=3, frames=frames, resolution=2, **settings)


def _contents(video):
    """Decodes [..., 2, 2, 3] in [-1, 1] to video, frame numbers and whether it is flipped."""
    pixels = np.round((video + 1) * 127.5).astype(int)
    return pixels[..., 0, 0, 0], pixels[..., 0, 0, 1], pixels[..., 0, 0, 2] == 255


def test_each_epoch_is_a_different_permutation():
    source = _source(count=11)
    names = clip_names(source, range(55))
    epochs = [names[first : first + 11] for first in range(0, 55, 11)]
    everything = sorted(source.reader.name(i) for i in range(11))
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 5
    assert names != clip_names(dataclasses.replace(source, seed=4), range(55))


def test_orders_of_an_epoch_are_equally_frequent():
    counts = Counter(
        tuple(clip_names(_source(count=3), range(3 * epoch, 3 * epoch + 3))) for epoch in range(600)
    )
    assert len(counts) == 6
    chi_squared = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_squared < 20.5  # 5 degrees of freedom: probability 0.1 %


def test_two_killed_processes_read_the_batches_of_one():
    settings = {"num_images": 2, "augment_flip": True, "condition": "label"}
    source = _source(**settings)
    steps, size = 6, 4  # 24 examples of 11 videos: more than two epochs
    alone = [source.batch(step, size) for step in range(steps)]
    killed_after = np.random.default_rng(0).integers(0, steps, 3)
    for rows in (range(0, 2), range(2, 4)):
        for start in (0, *killed_after):
            again = _source(**settings)
            for step in range(start, steps):
                indices = [step * size + row for row in rows]
                assert clip_names(again, indices) == clip_names(source, indices)
                batch = again.batch(step, size, rows=rows)
                assert batch.keys() == alone[step].keys()
                for name, values in batch.items():
                    np.testing.assert_array_equal(values, alone[step][name][rows.start : rows.stop])


@pytest.mark.parametrize("frameskip", [1, 4])
def test_a_window_is_of_one_video_evenly_spaced_and_random(frameskip):
    source = _source(frameskip=frameskip)
    starts = Counter()
    for index in range(400):
        videos, frames, flipped = _contents(source.example(index)["video"])
        name = clip_names(source, [index])
        assert [f"video_{video}" for video in set(videos)] == name and not flipped.any()
        np.testing.assert_array_equal(np.diff(frames), frameskip)
        starts[frames[0]] += 1
    last = 20 - (3 * frameskip + 1)
    assert set(starts) == set(range(last + 1))
    expected = 400 / (last + 1)
    # The standard deviation is less than the square root of the expected count.
    assert all(abs(count - expected) < 4 * expected**0.5 for count in starts.values())


def test_a_window_may_be_the_whole_video():
    _, frames, _ = _contents(_source(frames=20).example(5)["video"])
    np.testing.assert_array_equal(frames, np.arange(20))


def test_half_of_the_clips_and_images_are_flipped_independently():
    source = _source(augment_flip=True, num_images=1)
    examples = [source.example(index) for index in range(400)]
    clips = np.array([_contents(example["video"])[2] for example in examples])
    images = np.array([_contents(example["images"])[2][0] for example in examples])
    assert (clips == clips[:, :1]).all()
    for flips in (clips[:, 0], images, clips[:, 0] == images):
        assert abs(flips.mean() - 0.5) < 0.1  # 4 standard deviations
    plain = dataclasses.replace(source, augment_flip=False).example(0)["video"]
    np.testing.assert_array_equal(examples[0]["video"], plain[:, :, ::-1] if clips[0, 0] else plain)


def test_images_are_frames_of_any_other_video_with_its_label():
    source = _source(count=5, num_images=3, condition="label")
    others, frames = Counter(), set()
    for index in range(200):
        example = source.example(index)
        own = _contents(example["video"])[0][0]
        videos, times, _ = _contents(example["images"])
        np.testing.assert_array_equal(example["image_label"], videos % 7)
        assert example["label"] == own % 7 == source.label(index)
        assert own not in videos
        others.update((videos - own) % 5)
        frames.update(times)
        assert example["image_label"].dtype == example["label"].dtype == np.int32
    assert frames == set(range(20))
    assert all(abs(others[offset] - 150) < 4 * 150**0.5 for offset in range(1, 5))


def test_the_clip_does_not_depend_on_the_number_of_images():
    a, b = _source(augment_flip=True), _source(augment_flip=True, num_images=4)
    for index in range(20):
        np.testing.assert_array_equal(a.example(index)["video"], b.example(index)["video"])


def test_captions_are_encoded_for_the_clip_and_its_images():
    def encode(caption):
        return encode_caption(caption, tokens=3, width=4)

    source = _source(condition="text", encode=encode, num_images=2)
    example = source.example(9)
    text, mask = encode(source.caption(9))
    np.testing.assert_array_equal(example["text"], text)
    np.testing.assert_array_equal(example["text_mask"], mask)
    for number, video in enumerate(_contents(example["images"])[0]):
        np.testing.assert_array_equal(example["image_text"][number], encode(f"number {video}")[0])
    assert example["image_text_mask"].shape == (2, 3)


def test_held_out_videos_are_in_order_and_not_flipped():
    first = _source(shuffle=False, start="first", augment_flip=True)
    anywhere = _source(shuffle=False, start="random")
    windows = []
    for index in range(11):
        videos, frames, flipped = _contents(first.example(index)["video"])
        assert set(videos) == {index} and frames[0] == 0 and not flipped.any()
        np.testing.assert_array_equal(
            anywhere.example(index)["video"],
            dataclasses.replace(anywhere).example(index)["video"],
        )
        windows.append(_contents(anywhere.example(index)["video"])[1][0])
    assert len(set(windows)) > 3
    assert clip_names(first, range(9, 13)) == ["video_9", "video_10", "video_0", "video_1"]


def test_pixels_are_the_means_of_the_regions_that_they_cover():
    rng = np.random.default_rng(0)
    for side, channels in ((24, 3), (15, 3), (13, 1), (5, 3)):
        frames = rng.integers(0, 256, (2, side, side, channels), dtype=np.uint8)
        # Each pixel as 8 x 8 small ones, so that each output pixel covers whole ones.
        fine = frames.repeat(8, axis=1).repeat(8, axis=2).astype(np.float64)
        means = fine.reshape(2, 8, side, 8, side, channels).mean((2, 4))
        assert np.abs(resize_by_area(frames, 8) - means).max() < 1
    assert resize_by_area(frames, 5) is frames


def test_the_crop_is_central():
    wide = np.arange(7)[None, None, :, None].repeat(4, axis=1)
    assert centre_crop(wide)[0, 0, :, 0].tolist() == [1, 2, 3, 4]
    assert centre_crop(wide.swapaxes(1, 2))[0, :, 0, 0].tolist() == [1, 2, 3, 4]


def test_grey_clips_of_colour_videos():
    video = _source(channels=1).example(0)["video"]
    assert video.shape == (4, 2, 2, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": -1},
        {"frames": 0},
        {"frameskip": 0},
        {"channels": 2},
        {"start": "last"},
        {"condition": "caption"},
        {"num_images": -1},
        {"encode": str},
        {"reader": Numbered(1), "num_images": 1},
    ],
)
def test_invalid_attributes_are_errors(settings):
    with pytest.raises(ValueError, match=next(iter(settings)) if len(settings) == 1 else "images"):
        dataclasses.replace(_source(), **settings)


def test_a_short_video_is_an_error_with_its_name():
    with pytest.raises(ValueError, match=r"video_\d+ has 20 frames, and 21 are needed"):
        _source(frames=6, frameskip=4).example(0)


def test_actions_are_those_of_the_frames_of_the_clip():
    source = ClipDataSet(
        Driven(5), seed=3, frames=4, resolution=2, condition="action", num_images=2
    )
    for index in range(20):
        example = source.example(index)
        videos, frames, _ = _contents(example["video"])
        np.testing.assert_array_equal(example["action"], np.stack([videos, frames], axis=1))
        assert example["action"].dtype == np.float32 and example["action_mask"].all()
        assert example.keys() == {"video", "images", "action", "action_mask"}
    with pytest.raises(ValueError, match="the videos of the reader have no actions"):
        _source(condition="action")
