import numpy as np
import pytest
from scipy.ndimage import shift
from sklearn.datasets import load_digits

from vdm.data.captions.word_vectors import encode_caption
from vdm.data.moving_digits import MovingDigits, handwriting

_FILES = load_digits()
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _find(frame):
    """Returns every (file, y, x) whose digit at that position is the frame, by brute force."""
    ink = np.rint((frame[..., 0] + 1) * 8).astype(int)
    np.testing.assert_array_equal(ink / 8 - 1, frame[..., 0])
    found = []
    for y in range(ink.shape[0] - 7):
        for x in range(ink.shape[1] - 7):
            window = ink[y : y + 8, x : x + 8]
            if window.sum() == ink.sum():
                same = (_FILES.images == window).all((1, 2))
                found += [(int(i), y, x) for i in np.flatnonzero(same)]
    return found


def _track(video):
    """Returns the file that a whole video shows, and its positions [frames, 2]."""
    found = [_find(frame) for frame in video]
    assert all(len(matches) == 1 for matches in found), found
    assert len({matches[0][0] for matches in found}) == 1
    return found[0][0][0], np.array([matches[0][1:] for matches in found])


def test_each_frame_is_one_digit_of_the_split_and_it_bounces_as_the_caption_says():
    files = {"train": set(), "test": set()}
    headings = set()
    for split in files:
        data = MovingDigits(split, condition="label", frames=12, resolution=13, speed=1)
        for index in range(30):
            example = data.example(index)
            file, positions = _track(example["video"])
            files[split].add(file)

            label = _FILES.target[file]
            assert data.label(index) == example["label"] == label
            assert example["label"].dtype == np.int32
            step = np.diff(positions, axis=0)
            assert np.abs(step).max() == 1
            # Along an axis it moves always or never, and reverses at the walls only.
            for axis in (0, 1):
                assert len(set(np.abs(step[:, axis]))) == 1
                turns = np.flatnonzero(np.diff(step[:, axis])) + 1
                inside = np.flatnonzero(np.abs(step[:-1, axis])) + 1
                walls = [t for t in inside if positions[t, axis] in (0, 13 - 8)]
                assert turns.tolist() == walls
            words = {(-1, 0): "up", (1, 0): "down", (0, -1): "left", (0, 1): "right"}
            directions = [words[d] for d in ((step[0, 0], 0), (0, step[0, 1])) if d in words]
            article = "an" if label == 8 else "a"
            assert (
                data.caption(index)
                == f"{article} {_NAMES[label]} moving {' and '.join(directions)}"
            )
            headings.add(tuple(step[0]))
    assert max(files["train"]) < 1415 <= min(files["test"])
    assert len(headings) == 8


def test_the_splits_share_no_handwriting_and_hold_all_of_it():
    train, test = (handwriting(split)[0].reshape(-1, 64) for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == 1797
    assert (train.min(), train.max(), train.dtype) == (-1, 1, np.float32)
    for split in ("train", "test"):
        assert np.bincount(handwriting(split)[1]).min() >= 35  # every digit in both


def test_starts_and_handwriting_are_spread_evenly():
    data = MovingDigits("train", frames=1, speed=1)
    frames = np.stack([data.example(index)["video"][0, :, :, 0] for index in range(4000)])
    # Handwriting fills its 8 rows, so the first row with ink is the first row of the digit.
    top = np.argmax((frames > -1).any(2), axis=1)
    counts = np.bincount(top, minlength=9)
    assert len(counts) == 9 and np.abs(counts - 4000 / 9).max() < 5 * np.sqrt(4000 / 9)
    labels = np.bincount([data.label(index) for index in range(4000)])
    assert np.abs(labels - 400).max() < 5 * np.sqrt(400)


def test_images_are_frames_of_other_handwriting_with_their_own_conditions():
    data = MovingDigits("test", num_images=5, speed=1, condition="label")
    texts = MovingDigits(
        "test", num_images=5, speed=1, condition="text", text_tokens=6, text_width=8
    )
    files, spots, on_track = set(), set(), 0
    for index in range(20):
        example, with_text = data.example(index), texts.example(index)
        assert example["images"].shape == (5, 16, 16, 1)
        np.testing.assert_array_equal(example["images"], with_text["images"])
        own, positions = _track(example["video"])
        for i, image in enumerate(example["images"]):
            ((file, y, x),) = _find(image)
            assert file != own and file >= 1415
            files.add(file)
            spots.add((y, x))
            on_track += [y, x] in positions.tolist()
            label = _FILES.target[file]
            assert example["image_label"][i] == label
            caption = f"{'an' if label == 8 else 'a'} {_NAMES[label]}"
            text, mask = encode_caption(caption, tokens=6, width=8)
            np.testing.assert_array_equal(with_text["image_text"][i], text)
            np.testing.assert_array_equal(with_text["image_text_mask"][i], mask)
        text, mask = encode_caption(data.caption(index), tokens=6, width=8)
        np.testing.assert_array_equal(with_text["text"], text)
        np.testing.assert_array_equal(with_text["text_mask"], mask)
    # Independent: 100 images of 382 digits at 81 positions, not on the path of the video's digit.
    assert len(files) > 70 and len(spots) > 45 and on_track < 40


def test_an_example_is_a_function_of_seed_split_and_index_alone():
    data = MovingDigits("train", num_images=2, speed=1, condition="text")
    whole = data.batch(3, 8)
    assert {name: value.shape for name, value in whole.items()} == {
        "video": (8, 16, 16, 16, 1),
        "images": (8, 2, 16, 16, 1),
        "text": (8, 8, 32),
        "text_mask": (8, 8),
        "image_text": (8, 2, 8, 32),
        "image_text_mask": (8, 2, 8),
    }
    smaller = data.batch(6, 4)  # the same examples 24 to 27
    for rows in (range(5, 8), [5, 6, 7]):
        part = data.batch(3, 8, rows=rows)
        for name, value in whole.items():
            np.testing.assert_array_equal(part[name], value[5:8])
            np.testing.assert_array_equal(smaller[name], value[:4])
            np.testing.assert_array_equal(data.example(30)[name], value[6])
    # Images of joint training do not change the videos.
    alone = MovingDigits("train", speed=1).batch(3, 8)
    assert list(alone) == ["video"]
    np.testing.assert_array_equal(alone["video"], whole["video"])

    others = [MovingDigits("train", seed=1), MovingDigits("test")]
    for other in others:
        assert (other.batch(3, 8)["video"] != whole["video"]).any((1, 2, 3, 4)).all()
    first = np.concatenate([MovingDigits("train").batch(i, 50)["video"] for i in range(4)])
    assert len(np.unique(first.reshape(200, -1), axis=0)) == 200
    assert MovingDigits("train").example(2**62)["video"].shape == (16, 16, 16, 1)


def test_horizontal_motion_keeps_the_row_and_goes_both_ways():
    data = MovingDigits("train", resolution=12, motion="horizontal", speed=1)
    headings = set()
    for index in range(20):
        _, positions = _track(data.example(index)["video"])
        assert len(set(positions[:, 0])) == 1
        assert set(np.abs(np.diff(positions[:, 1]))) == {1}
        headings.add(data.caption(index).split(" moving ")[1])
    assert headings == {"left", "right"}


def test_frameskip_and_downsampling_keep_the_videos():
    every = MovingDigits("train", resolution=12, frames=13, speed=0.5).batch(0, 4)["video"]
    skipped = MovingDigits("train", resolution=12, frames=4, speed=0.5, frameskip=4)
    np.testing.assert_array_equal(skipped.batch(0, 4)["video"], every[:, ::4])
    small = MovingDigits("train", resolution=6, frames=13, speed=0.5, downsample=2)
    corners = [every[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)]
    np.testing.assert_allclose(small.batch(0, 4)["video"], np.mean(corners, axis=0), atol=1e-6)


def test_at_resolution_8_the_digit_stands_still():
    data = MovingDigits("test", resolution=8, frames=3)
    video = data.example(0)["video"]
    np.testing.assert_array_equal(video, video[:1].repeat(3, axis=0))
    assert data.caption(0).endswith("standing still")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"split": "valid"}, "split is 'valid', and must be one of"),
        ({"condition": "caption"}, "condition is 'caption', and must be one of"),
        ({"motion": "vertical"}, "motion is 'vertical', and must be one of"),
        ({"resolution": 10, "speed": 0.75}, "speed is 0.75, and must divide 2"),
        ({"resolution": 7}, "resolution is 7, and must be at least 8"),
        ({"frames": 0}, "frames is 0, and must be at least 1"),
        ({"num_images": -1}, "num_images is -1, and must be at least 0"),
    ],
)
def test_values_out_of_range_are_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        MovingDigits(**{"split": "train", **wrong})


def test_rows_outside_the_batch_and_negative_indices_are_errors():
    data = MovingDigits("train")
    for rows in (range(2, 5), range(0), range(4, 8)):
        with pytest.raises(ValueError, match="must be rows of a batch of 4"):
            data.batch(0, 4, rows=rows)
    with pytest.raises(ValueError, match="index is -1"):
        data.example(-1)


def test_between_pixels_a_digit_is_interpolated_linearly():
    """Against scipy: each frame is the crisp digit shifted by some multiple of the speed."""
    crisp = MovingDigits("train", resolution=8, frames=1)
    moving = MovingDigits("train", resolution=10, speed=0.5, frames=4)
    offsets = np.arange(0, 2.5, 0.5)
    for index in range(4):
        canvas = np.full((12, 12), -1.0)  # scipy does not interpolate across the border
        canvas[1:9, 1:9] = crisp.example(index)["video"][0, ..., 0]
        shifted = np.array(
            [[shift(canvas, (y, x), order=1, cval=-1) for x in offsets] for y in offsets]
        )[..., 1:-1, 1:-1]
        positions = []
        for frame in moving.example(index)["video"][..., 0]:
            distance = np.abs(shifted - frame).max(axis=(2, 3))
            assert distance.min() < 1e-5
            positions.append(np.unravel_index(distance.argmin(), distance.shape))
        assert np.abs(np.diff(positions, axis=0)).max() == 1  # in units of the speed
