"""TFDS builder of Kinetics-600."""

from vdm.data.builders.manual_videos import ManualVideos


class Builder(ManualVideos):
    """Kinetics-600, for which TensorFlow Datasets has no builder."""

    described_by = "label"
    required_splits = ("train", "test")
