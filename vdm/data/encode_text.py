"""Encodes the captions of a data set: python -m vdm.data.encode_text --config=FILE.

The language model is config.data.text_encoder. Flags override configuration fields as in training.
vdm/data/captions/encoded.py describes the output files.
"""

import sys

from absl import app, flags

from vdm.configuration import command_line
from vdm.data.captions.encoded import WORDS, TextEncoder, check_width, text_folder, write_text
from vdm.data.datasets import check_name, open_readers
from vdm.interruptible import interruptible


def encode_data_set(config, batch_size: int = 64):
    """Encodes all captions of a data set; returns the output folder and the number of captions.

    Raises:
      ValueError: the data set or the language model is missing, or the model has the wrong width.
    """
    if config.data.text_encoder == WORDS:
        raise ValueError(f"config.data.text_encoder is {WORDS!r}, and must be a language model")
    check_name(config)
    if config.data.condition != "text":
        raise ValueError(f"config.data.condition is {config.data.condition!r}, and must be 'text'")
    readers = open_readers(config)
    encoder = TextEncoder(config.data.text_encoder, config.data.text_tokens)
    check_width(config, encoder.width)
    captions = {reader.caption(i) for reader in readers for i in range(len(reader))}
    folder = text_folder(readers[0].folder, config)
    return folder, write_text(folder, captions, encoder, batch_size)


@interruptible()
def main(config) -> None:
    """Encodes the captions and prints the output folder."""
    try:
        folder, count = encode_data_set(config, flags.FLAGS.batch_size)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{count} captions: {folder}")


if __name__ == "__main__":
    flags.DEFINE_integer("batch_size", 64, "Captions per call of the model.", lower_bound=1)
    flags.adopt_module_key_flags(command_line)
    app.run(main, flags_parser=command_line.parse)
