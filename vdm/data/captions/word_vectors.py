"""Encodes captions as fixed random word vectors: text conditioning without a language model.

Vectors of different words are nearly orthogonal, and a word has the same vector in every process,
so a network can learn what each word means. The output format is that of a language model: `text`
[tokens, width] and `text_mask` [tokens].
"""

import functools
import hashlib
import string

import numpy as np


@functools.lru_cache(maxsize=65536)
def _word_vector(word: str, width: int) -> np.ndarray:
    # Not hash(): Python randomises it per process.
    digest = hashlib.sha256(word.encode("utf-8")).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    vector = generator.standard_normal(width, dtype=np.float32)
    vector.setflags(write=False)
    return vector


def encode_caption(caption: str, *, tokens: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a caption as word vectors: standard normal, each a pure function of its word.

    Words are split at white space, lower-cased and stripped of punctuation.

    Returns:
      text: float32 [tokens, width]; unused vectors are zero.
      text_mask: bool [tokens], True for words; all False for a missing caption.

    Raises:
      ValueError: the caption has more words than `tokens`.
    """
    words = [word.strip(string.punctuation) for word in caption.lower().split()]
    words = [word for word in words if word]
    if len(words) > tokens:
        raise ValueError(
            f"caption {caption!r} has {len(words)} words, and must have at most {tokens}"
        )
    text = np.zeros((tokens, width), np.float32)
    for row, word in zip(text, words, strict=False):
        row[:] = _word_vector(word, width)
    return text, np.arange(tokens) < len(words)
