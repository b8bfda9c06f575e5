"""Encodes captions with a frozen language model, once, and stores the token vectors.

The folder of encoded captions is stored with a data set. It has `tokens.bin`, the concatenated
float16 vectors of all captions without padding, memory-mapped when read; `captions.npz`, their
offsets and CRC-32 by hash of the caption; and `header.json`, which identifies the model.
"""

import functools
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from vdm.data.captions.word_vectors import encode_caption
from vdm.video.folders import CAPTION_NAMES

_ARRAYS, _VECTORS = CAPTION_NAMES
WORDS = "words"  # word vectors instead of a language model: vdm/data/captions/word_vectors.py

# caption -> (text float32 [tokens, width], text_mask bool [tokens]).
Encode = Callable[[str], tuple[np.ndarray, np.ndarray]]


class TextEncoder:
    """Encodes captions as the last hidden states of a frozen Hugging Face language model.

    `name` is a model on the Hugging Face Hub or the path of a folder. Captions are truncated to
    `tokens` tokens, including special tokens. `width` is the size of a token vector.
    """

    def __init__(self, name: str, tokens: int, *, on_cpu: bool = False):
        """Loads the tokenizer and the weights; with `on_cpu`, to the CPU even if there is a GPU.

        Raises:
          ValueError: transformers or PyTorch is not installed, or there is no such model.
        """
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise ValueError(
                f"encoding captions with {name!r} requires "
                f'pip install "video-diffusion-jax[text]": {error}'
            ) from error
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name)
            self._model = AutoModel.from_pretrained(name).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"the text encoder {name!r} cannot be loaded: {reason}") from error
        self._device = "cpu" if on_cpu or not torch.cuda.is_available() else "cuda"
        self._model.to(self._device)
        self.name, self.tokens = name, tokens
        self.width = int(self._model.config.hidden_size)

    def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
        """Returns the token vectors of each caption, float16 [n, width], with n = 0 for ''."""
        import torch

        if not any(captions):
            return [np.zeros((0, self.width), np.float16) for _ in captions]
        inputs = self._tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self.tokens,
            return_tensors="pt",
        ).to(self._device)
        with torch.inference_mode():
            states = self._model(**inputs).last_hidden_state.float().cpu().numpy()
        masks = inputs["attention_mask"].bool().cpu().numpy()
        return [
            state[mask if caption else mask & False].astype(np.float16)
            for caption, state, mask in zip(captions, states, masks, strict=True)
        ]

    def describe(self) -> dict:
        """Returns the content of header.json: everything on which the vectors depend."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self._model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return {
            "encoder": self.name,
            "weights_sha256": digest.hexdigest(),
            "model": self._model.config.to_dict(),
            "tokenizer": type(self._tokenizer).__name__,
            "tokens": self.tokens,
            "width": self.width,
        }


class StoredText:
    """Encoded captions in a folder: caption -> (text, text_mask)."""

    def __init__(self, folder: Path, command: str):
        """Memory-maps the files of `write_text`; error messages name `command`, which writes them.

        Raises:
          ValueError: the folder is missing or damaged.
        """
        if not (folder / "header.json").exists():
            raise ValueError(f"there are no encoded captions in {folder}: run {command}")
        path = folder / "header.json"
        try:
            self.header = json.loads(path.read_text())
            width, _ = int(self.header["width"]), int(self.header["tokens"])
            path = folder / _ARRAYS
            with path.open("rb") as file, np.load(file) as captions:
                self._digests, self._starts = captions["digest"], captions["start"]
                # Folders of earlier versions have no checksums.
                self._checksums = captions.get("crc32")
            shape = (int(self._starts[-1]), width)
            path = folder / _VECTORS
            is_whole = path.stat().st_size == 2 * shape[0] * shape[1]
        except Exception as error:  # NumPy, zipfile and json raise many types
            raise ValueError(
                f"{path} is missing or damaged: run {command} again ({error})"
            ) from error
        if not is_whole:
            raise ValueError(f"{path} is damaged: run {command} again")
        self._vectors: np.ndarray = np.zeros((0, shape[1]), np.float16)
        if shape[0]:  # an empty file cannot be memory-mapped
            self._vectors = np.memmap(path, np.float16, mode="r", shape=shape)
        self._folder, self._command = folder, command

    def __call__(self, caption: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns text, float32 [tokens, width], zero after the last token, and text_mask [tokens].

        Raises:
          ValueError: the caption is not encoded in the folder, or its vectors are damaged.
        """
        tokens, vectors = self.header["tokens"], np.zeros((0, self.header["width"]), np.float16)
        if caption:
            digest = _digest(caption)
            index = np.searchsorted(self._digests, digest)
            if index == len(self._digests) or self._digests[index] != digest:
                raise ValueError(
                    f"the caption {caption!r} is not encoded in {self._folder}: run "
                    f"{self._command} again"
                )
            vectors = self._vectors[self._starts[index] : self._starts[index + 1]]
            if self._checksums is not None and _checksum(vectors) != self._checksums[index]:
                raise ValueError(
                    f"{self._folder / _VECTORS} is damaged: those of {caption!r} do not match "
                    f"their checksum; run {self._command} again"
                )
        return padded(vectors, tokens)


def write_text(
    folder: Path, captions: Iterable[str], encoder: TextEncoder, batch_size: int = 64
) -> int:
    """Encodes the distinct captions, and atomically replaces the folder that `StoredText` reads.

    Returns:
      The number of distinct captions.

    Raises:
      ValueError: two captions have the same hash.
      OSError: the folder cannot be written, and is as before; the message names it.
    """
    captions = set(captions)
    digests = {_digest(caption): caption for caption in captions}
    if len(digests) != len(captions):
        raise ValueError("two captions have the same hash: change a letter of one of them")
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write_arrays(temporary, digests, encoder, batch_size)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:  # of a full disk, without the name
        raise OSError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(digests)


def _write_arrays(
    folder: Path, digests: Mapping[np.uint64, str], encoder: TextEncoder, batch_size: int
) -> None:
    order, starts, checksums = sorted(digests), [0], []
    with (folder / _VECTORS).open("wb") as file:
        for first in range(0, len(order), batch_size):
            batch = [digests[digest] for digest in order[first : first + batch_size]]
            for vectors in encoder(batch):
                file.write(vectors.tobytes())
                starts.append(starts[-1] + len(vectors))
                checksums.append(_checksum(vectors))
            print(
                f"encoded {min(first + batch_size, len(order))}/{len(order)} captions", flush=True
            )
    np.savez(
        folder / _ARRAYS,
        digest=np.array(order, np.uint64),
        start=np.array(starts, np.int64),
        crc32=np.array(checksums, np.uint32),
    )
    (folder / "header.json").write_text(json.dumps(encoder.describe(), indent=2, default=str))


def text_folder(data_folder: Path, config: ml_collections.ConfigDict) -> Path:
    """Returns the folder of encoded captions for config.data.text_encoder and text_tokens."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", config.data.text_encoder).strip("_")
    return data_folder / "text" / f"{name}_{config.data.text_tokens}"


def make_encode(config: ml_collections.ConfigDict, data_folder: Path) -> Encode:
    """Returns the function that maps a data set's captions to (text, text_mask), for config.data.

    Raises:
      ValueError: the captions are not encoded, or their width is not config.model.text_width.
    """
    data = config.data
    if data.text_encoder == WORDS:
        width = config.model.text_width
        return functools.partial(encode_caption, tokens=data.text_tokens, width=width)
    stored = _stored(
        text_folder(data_folder, config),
        "python -m vdm.data.encode_text with this configuration (docs/data.md)",
    )
    check_width(config, stored.header["width"])
    return stored


def encode_given(config: ml_collections.ConfigDict, caption: str) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a user's caption with config.data.text_encoder, in the format of `StoredText`.

    Raises:
      ValueError: as in `TextEncoder`, or the width is not config.model.text_width.
    """
    data = config.data
    if data.text_encoder == WORDS:
        return encode_caption(caption, tokens=data.text_tokens, width=config.model.text_width)
    vectors = _encoded(data.text_encoder, data.text_tokens, caption)
    check_width(config, vectors.shape[1])
    return padded(vectors, data.text_tokens)


def padded(vectors: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads vectors [n, width] to text, float32 [tokens, width]; returns text and mask [tokens]."""
    text = np.zeros((tokens, vectors.shape[1]), np.float32)
    text[: len(vectors)] = vectors
    return text, np.arange(tokens) < len(vectors)


_stored = functools.lru_cache(maxsize=4)(StoredText)


@functools.lru_cache(maxsize=64)
def _encoded(name: str, tokens: int, caption: str) -> np.ndarray:
    # Uses the CPU: one caption is fast there, and JAX needs the accelerator's memory.
    return TextEncoder(name, tokens, on_cpu=True)([caption])[0]


def check_width(config: ml_collections.ConfigDict, found: int) -> None:
    """Raises ValueError if config.model.text_width is not the width of the encoder's vectors."""
    if config.model.text_width != found:
        raise ValueError(
            f"config.model.text_width is {config.model.text_width}, and the vectors of "
            f"{config.data.text_encoder!r} have {found}"
        )


def _digest(caption: str) -> np.uint64:
    digest = hashlib.sha256(caption.encode("utf-8")).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def _checksum(vectors: np.ndarray) -> int:
    return zlib.crc32(vectors.tobytes())
