import subprocess
import sys

import numpy as np
import pytest

from vdm.data.captions.word_vectors import encode_caption


def test_the_vector_of_a_word_ignores_position_case_and_punctuation():
    text, mask = encode_caption("A seven,  moving\tup", tokens=6, width=32)
    other, _ = encode_caption("UP! a (seven)", tokens=6, width=32)

    assert text.shape == (6, 32) and text.dtype == np.float32
    assert mask.dtype == bool and mask.tolist() == [True] * 4 + [False] * 2
    np.testing.assert_array_equal(text[4:], 0)
    np.testing.assert_array_equal(other[:3], text[[3, 0, 1]])


def test_vectors_are_standard_normal_and_uncorrelated_between_words():
    words = [f"word{i}" for i in range(200)]
    text, _ = encode_caption(" ".join(words), tokens=200, width=256)

    assert abs(text.mean()) < 0.02 and abs(text.std() - 1) < 0.02
    cosine = np.corrcoef(text) - np.eye(200)
    assert np.abs(cosine).max() < 6 / np.sqrt(256)  # six standard deviations


def test_vectors_are_the_same_in_another_process():
    program = (
        "from vdm.data.captions.word_vectors import encode_caption;"
        "print(encode_caption('seven', tokens=1, width=8)[0].tobytes().hex())"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    text, _ = encode_caption("seven", tokens=1, width=8)
    assert child.stdout.strip() == text.tobytes().hex(), child.stderr


@pytest.mark.parametrize("caption", ["", " \n ", "..."])
def test_a_caption_without_words_is_masked(caption):
    text, mask = encode_caption(caption, tokens=3, width=4)
    assert not mask.any() and not text.any()


def test_a_caption_that_is_too_long_is_an_error():
    with pytest.raises(ValueError, match="'a seven moving up' has 4 words, and must"):
        encode_caption("a seven moving up", tokens=3, width=4)
