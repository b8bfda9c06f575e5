"""Captions through a language model: the stored vectors, and those of a small BERT."""

import json
import resource

import numpy as np
import pytest

from configs.moving_digits import get_config
from tests.data.video_writing import write_video
from vdm.data.captions.encoded import (
    StoredText,
    TextEncoder,
    encode_given,
    make_encode,
    text_folder,
    write_text,
)
from vdm.data.captions.word_vectors import encode_caption
from vdm.data.datasets import make_data_set
from vdm.data.encode_text import encode_data_set
from vdm.data.folder.videos import open_folder
from vdm.video.index import index_folder
from vdm.video.video_sets import open_videos

WORDS = ["a", "man", "woman", "rides", "walks", "horse", "the", "dog", "on", "beach"]
CAPTIONS = [
    "a man rides a horse",
    "the dog walks on the beach",
    "",
    "a woman",
    "A man rides a horse",  # another caption, with equal tokens for an uncased tokenizer
    "a man walks the dog on the beach on a horse the woman rides",  # truncated
]


class WordVectors:
    """An encoder without a language model: one vector per word."""

    name, tokens, width = "word vectors", 16, 12

    def __call__(self, captions):
        encoded = [encode_caption(c, tokens=self.tokens, width=self.width) for c in captions]
        return [text[mask].astype(np.float16) for text, mask in encoded]

    def describe(self):
        return {"tokens": self.tokens, "width": self.width}


def test_stored_vectors_are_read_back(tmp_path):
    folder = tmp_path / "text" / "words_16"
    assert write_text(folder, CAPTIONS + CAPTIONS, WordVectors(), batch_size=4) == len(CAPTIONS)
    stored = StoredText(folder, "a command")
    for caption in CAPTIONS:
        text, mask = stored(caption)
        expected, expected_mask = encode_caption(caption, tokens=16, width=12)
        np.testing.assert_array_equal(mask, expected_mask)
        np.testing.assert_allclose(text, expected, rtol=1e-3)
        assert text.dtype == np.float32
    assert (folder / "tokens.bin").stat().st_size == 2 * 12 * sum(
        len(caption.split()) for caption in CAPTIONS
    )
    with pytest.raises(ValueError, match=r"'a cat' is not encoded in .*: run a command again"):
        stored("a cat")
    # Written again, with other captions.
    write_text(folder, ["a cat"], WordVectors())
    assert StoredText(folder, "a command")("a cat")[1].sum() == 2
    for name in ("tokens.bin", "captions.npz", "header.json"):
        whole = (folder / name).read_bytes()
        for damaged in (b"", whole[: len(whole) // 2]):
            (folder / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"{name} is .*damaged: run a command again"):
                StoredText(folder, "a command")
        (folder / name).unlink()
        with pytest.raises(ValueError, match=r"run a command"):
            StoredText(folder, "a command")
        (folder / name).write_bytes(whole)


def test_a_flipped_bit_is_found(tmp_path):
    folder = tmp_path / "words_16"
    write_text(folder, CAPTIONS, WordVectors())
    path, stored = folder / "tokens.bin", StoredText(folder, "a command")
    expected = {caption: stored(caption)[0] for caption in CAPTIONS}
    whole = path.read_bytes()
    for position in (0, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        found, stored = [], StoredText(folder, "a command")
        for caption in CAPTIONS:
            try:
                np.testing.assert_array_equal(stored(caption)[0], expected[caption])
            except ValueError as error:
                assert "tokens.bin is damaged" in str(error) and "run a command again" in str(error)
                found.append(caption)
        assert len(found) == 1
    # As an earlier version wrote it.
    with np.load(folder / "captions.npz") as arrays:
        earlier = {name: arrays[name] for name in ("digest", "start")}
    np.savez(folder / "captions.npz", **earlier)
    path.write_bytes(whole)
    stored = StoredText(folder, "a command")
    np.testing.assert_array_equal(stored(CAPTIONS[0])[0], expected[CAPTIONS[0]])


def test_a_full_disk_names_the_folder_and_leaves_it_as_it_was(tmp_path):
    folder = tmp_path / "text" / "words_16"
    write_text(folder, ["a cat"], WordVectors())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"^{folder} cannot be written: File too large$"):
            write_text(folder, CAPTIONS, WordVectors())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in folder.parent.iterdir()] == ["words_16"]
    assert StoredText(folder, "a command")("a cat")[1].sum() == 2


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a BERT of two layers with random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "tiny bert"
    folder.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def _config(bert):
    config = get_config()
    config.data.update(condition="text", text_encoder=str(bert), text_tokens=10)
    config.model.update(num_classes=0, text_width=16)
    return config


def test_encoded_captions_equal_berts_last_hidden_states(bert, tmp_path):
    import torch
    import transformers

    config = _config(bert)
    folder = text_folder(tmp_path, config)
    write_text(folder, CAPTIONS, TextEncoder(str(bert), 10), batch_size=4)
    encode = make_encode(config, tmp_path)

    tokenizer = transformers.BertTokenizer(str(bert / "vocab.txt"))
    model = transformers.BertModel.from_pretrained(bert).eval()
    for caption in filter(None, CAPTIONS):
        # One caption per call, without padding.
        ids = tokenizer(caption, truncation=True, max_length=10)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        for text, mask in (encode(caption), encode_given(config, caption)):
            assert text.shape == (10, 16) and mask.sum() == len(ids) and mask[: len(ids)].all()
            np.testing.assert_allclose(text[: len(ids)], states, atol=2e-3)
            assert not text[len(ids) :].any()
    text, mask = encode("")
    assert not mask.any() and not text.any()
    header = json.loads((folder / "header.json").read_text())
    assert header["encoder"] == str(bert) and len(header["weights_sha256"]) == 64
    assert header["model"]["num_hidden_layers"] == 2


def test_captions_of_a_data_set_come_with_its_clips(bert, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")
    from vdm.data.prepare import prepare

    videos = tmp_path / "videos"
    videos.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
    splits = ["train", "train", "train", "validation"]
    lines = []
    for number, split in enumerate(splits):
        write_video(videos / f"{number}.mkv", frames, codec="ffv1", pix_fmt="bgr0")
        entry = {"file": f"{number}.mkv", "caption": CAPTIONS[number] or "a dog", "split": split}
        lines.append(json.dumps(entry))
    (videos / "manifest.jsonl").write_text("\n".join(lines))
    prepare(
        "captioned_videos",
        config='{"name": "8x8", "resolution": 8}',
        data_dir=str(tmp_path),
        manual_dir=str(videos),
    )
    config = _config(bert)
    config.data.update(name="captioned_videos", tfds_dir=str(tmp_path), tfds_config="8x8")
    config.data.update(channels=3, resolution=8, num_images=2)
    with pytest.raises(ValueError, match="no encoded captions in"):
        make_data_set(config, "train")
    folder, count = encode_data_set(config)
    assert count == 4 and folder.parent.parent == tmp_path / "captioned_videos" / "8x8" / "1.0.0"
    source = make_data_set(config, "train")
    example = source.example(0)
    expected, mask = encode_given(config, source.caption(0))
    np.testing.assert_allclose(example["text"], expected, atol=2e-3)
    np.testing.assert_array_equal(example["text_mask"], mask)
    assert example["image_text"].shape == (2, 10, 16) and example["image_text_mask"].any(-1).all()


@pytest.mark.parametrize("splits", ["train", "test", "train test"])
def test_captions_of_a_folder_with_one_split_are_encoded(tmp_path, monkeypatch, splits):
    monkeypatch.setattr("vdm.data.encode_text.TextEncoder", lambda *_: WordVectors())
    rows = ["file,caption,split"]
    for index, split in enumerate(splits.split()):
        np.save(tmp_path / f"{index}.npy", np.zeros((16, 8, 8, 1), np.uint8))
        rows.append(f"{index}.npy,a dog {index},{split}")
    # Of Excel: line ends of Windows and a byte order mark.
    (tmp_path / "manifest.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    config = get_config()
    config.data.update(name="folder", path=str(tmp_path), condition="text", text_encoder="vectors")
    config.data.update(text_tokens=16, resolution=8)
    config.model.update(num_classes=0, text_width=12)
    _, count = encode_data_set(config)
    assert count == len(splits.split())
    for split in splits.split():
        source = make_data_set(config, split)
        expected, mask = encode_caption(source.caption(0), tokens=16, width=12)
        example = source.example(0)
        np.testing.assert_allclose(example["text"], expected, rtol=1e-3)
        np.testing.assert_array_equal(example["text_mask"], mask)


@pytest.mark.parametrize("name", ["moving_digits", "zeros"])
def test_drawn_videos_have_no_captions_to_encode(name):
    config = _config("bert")
    config.data.name = name
    with pytest.raises(ValueError, match=f"name is '{name}', which stores no .* 'folder', 'pusht'"):
        encode_data_set(config)


def test_errors_name_the_missing_input(bert, tmp_path):
    config = _config(bert)
    with pytest.raises(
        ValueError, match=r"no encoded captions in .*python -m vdm\.data\.encode_text"
    ):
        make_encode(config, tmp_path)
    write_text(text_folder(tmp_path, config), CAPTIONS, TextEncoder(str(bert), 10))
    config.model.text_width = 1024
    for call in (lambda: make_encode(config, tmp_path), lambda: encode_given(config, "a dog")):
        with pytest.raises(ValueError, match=r"text_width is 1024, and the vectors of .* have 16"):
            call()
    with pytest.raises(ValueError, match="'no such model' cannot be loaded"):
        TextEncoder("no such model", 10)


def test_encoded_captions_are_no_videos_and_no_class(tmp_path):
    """They are stored in the folder of the videos, which is read again after encoding."""
    names = ["cat/0.npy", "cat/1.npy", "dog/0.npy"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.zeros((4, 8, 8, 3), np.uint8))
    write_text(tmp_path / "text" / "words_16", CAPTIONS, WordVectors())
    index = index_folder(tmp_path, save=False)
    assert [*index.videos] == names and not index.unreadable
    assert index.left_out == {"text/words_16": "has encoded captions"}
    assert len(open_videos(tmp_path, 4)) == 3  # of metrics, which refuse unreadable files
    splits = open_folder(tmp_path, needed_frames=4, condition="label")
    assert splits["train"].classes == ("cat", "dog")
