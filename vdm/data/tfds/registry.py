"""The data sets of TensorFlow Datasets (TFDS) on which the paper's models are trained."""

import dataclasses
import functools
from collections.abc import Mapping

import ml_collections

from vdm.data.tfds.videos import TfdsVideos, prepared_folder


@dataclasses.dataclass(frozen=True)
class TfdsDataSet:
    """Describes how a TFDS data set is used.

    Attributes:
      splits: {our split: TFDS split}. Evaluation takes real videos, and sampling takes conditions
        and observed frames, from 'test'. Protocols may have further splits.
      has_configs: whether config.data.tfds_config selects a builder configuration.
      has_manual_dir: whether preparation reads files that TFDS does not download.
      held_out_start: first frame of a held-out clip, `start` of `ClipDataSet`.
      features: names of a record's features, keyword arguments of `TfdsVideos`.
      num_frames: number of frames of the shortest video, 0 if unknown.
    """

    splits: Mapping[str, str]
    has_configs: bool = True
    has_manual_dir: bool = False
    held_out_start: str = "random"
    features: Mapping[str, str] = dataclasses.field(default_factory=dict)
    num_frames: int = 0


CAMERAS = ("image_main", "image_aux1")  # of BAIR

TFDS_DATA_SETS = {
    "bair_robot_pushing_small": TfdsDataSet(
        {"train": "train", "test": "test"}, has_configs=False, held_out_start="first", num_frames=30
    ),
    # The paper trains on all 13,320 videos; it does not specify which ones FID compares with.
    "ucf101": TfdsDataSet(
        {"train": "train+test", "test": "train+test", "only_train": "train"},
        features={"label": "label"},
    ),
    "kinetics600": TfdsDataSet(
        {"train": "train", "test": "test"},
        has_manual_dir=True,
        features={"label": "label", "name": "name"},
    ),
    "captioned_videos": TfdsDataSet(
        {"train": "train", "test": "validation"},
        has_manual_dir=True,
        features={"caption": "caption", "name": "name"},
    ),
}


def open_tfds(config: ml_collections.ConfigDict, split: str) -> TfdsVideos:
    """Opens the split 'train' or 'test' of the data set config.data.name of `TFDS_DATA_SETS`.

    Raises:
      ValueError: the data set is not prepared, or does not fit config.data.
    """
    data = config.data
    chosen = TFDS_DATA_SETS[data.name]
    if bool(data.tfds_config) != chosen.has_configs:
        allowed = "a configuration of the builder" if chosen.has_configs else "empty"
        raise ValueError(
            f"config.data.tfds_config is {data.tfds_config!r}, and must be {allowed} for "
            f"{data.name!r}"
        )
    command = f"python -m vdm.data.prepare {data.name}"
    command += f" --config={data.tfds_config}" if data.tfds_config else ""
    command += f" --data_dir={data.tfds_dir}" if data.tfds_dir else ""
    command += " --manual_dir=VIDEOS" if chosen.has_manual_dir else ""
    folder = prepared_folder(
        data.name, data.tfds_config, data.tfds_dir, f"{command} (docs/data.md)"
    )
    features = dict(chosen.features)
    if data.name == "bair_robot_pushing_small":
        features["frames"] = data.camera
        features |= {"action": "action"} if data.condition == "action" else {}
    videos = _open(folder, chosen.splits[split], **features)
    shortest = chosen.num_frames or int(videos.metadata.get("min_frames", 0))
    needed = (data.frames - 1) * data.frameskip + 1
    if shortest and needed > shortest:
        raise ValueError(
            f"config.data.frames is {data.frames} and config.data.frameskip {data.frameskip}, for "
            f"which videos of {needed} frames are needed, and those in {folder} have {shortest}"
        )
    for condition, feature in (("label", "label"), ("text", "caption")):
        if data.condition == condition and feature not in chosen.features:
            raise ValueError(
                f"config.data.condition is {condition!r}, and {data.name!r} has no {feature}s"
            )
    if data.condition == "label" and config.model.num_classes != videos.num_classes:
        raise ValueError(
            f"config.model.num_classes is {config.model.num_classes}, and the data set in {folder} "
            f"has {videos.num_classes} classes"
        )
    return videos


# Cached, because each reader locates the records of a file at its first use.
_open = functools.lru_cache(maxsize=8)(TfdsVideos)
