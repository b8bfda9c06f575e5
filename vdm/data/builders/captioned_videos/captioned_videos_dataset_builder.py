"""TFDS builder of a data set of captioned videos."""

from vdm.data.builders.manual_videos import ManualVideos


class Builder(ManualVideos):
    """The user's own videos with captions."""

    described_by = "caption"
    required_splits = ("train", "validation")
