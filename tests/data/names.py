"""Names of the videos that a data set reads."""


def clip_names(data_set, indices):
    """The names of the videos of examples `indices` of a ClipDataSet."""
    return [data_set.reader.name(data_set.video_index(index)) for index in indices]
