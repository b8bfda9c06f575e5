"""Builds Kinetics-600 from video files."""

from vdm.data.builders.manual_videos import ManualVideos


class Builder(ManualVideos):
    """Kinetics-600, of which TensorFlow Datasets has no builder."""

    said_of_each = "label"
    needed_splits = ("train", "test")
