"""Builds a data set of captioned videos from video files."""

from vdm.data.builders.manual_videos import ManualVideos


class Builder(ManualVideos):
    """Videos of your own, each with a caption."""

    said_of_each = "caption"
    needed_splits = ("train", "validation")
