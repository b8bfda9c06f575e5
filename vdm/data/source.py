"""From a configuration to a data set."""

import dataclasses

import ml_collections

from vdm.data.moving_digits import MovingDigits

# Data sets are addressed by configurations alone, so that a new one is one more entry here.
SOURCES = ("moving_digits",)


def make_source(config: ml_collections.ConfigDict, split: str) -> MovingDigits:
    """The data set that config.data asks for.

    Args:
      config: the whole configuration.
      split: 'train' or 'test'.

    Raises:
      ValueError: the data set is unknown, or cannot give what config.data asks for.
    """
    data = config.data
    if data.name not in SOURCES:
        raise ValueError(
            f"config.data.name is {data.name!r}, and this version can load "
            f"{', '.join(map(repr, SOURCES))}"
        )
    for field, only in (("channels", 1), ("augment_flip", False)):
        if data[field] != only:
            raise ValueError(
                f"config.data.{field} is {data[field]!r}, and must be {only!r} for {data.name!r}"
            )
    if data.condition == "label" and config.model.num_classes != 10:
        raise ValueError(
            f"config.model.num_classes is {config.model.num_classes}, and must be 10 "
            f"for {data.name!r}"
        )
    return MovingDigits(
        split=split,
        seed=config.seed,
        frames=data.frames,
        resolution=data.resolution,
        motion=data.motion,
        speed=data.speed,
        frameskip=data.frameskip,
        downsample=data.downsample,
        num_images=data.num_images,
        condition=data.condition,
        text_tokens=data.text_tokens,
        text_width=config.model.text_width,
    )


def held_out_videos(config: ml_collections.ConfigDict, frames: int) -> MovingDigits:
    """The held-out videos by themselves, without images or conditions, of any number of frames."""
    return dataclasses.replace(
        make_source(config, "test"), frames=frames, num_images=0, condition="none"
    )
