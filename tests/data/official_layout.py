"""Small BAIR and UCF101 in the layout of their official archives, prepared by TFDS's code.

The files are written to the folders into which TFDS unpacks its downloads, so that its builders run
unchanged, without the download.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.data.video_writing import write_video


def prepare_bair(folder: Path, videos: Mapping[str, np.ndarray], file_format: str) -> None:
    """Prepares bair_robot_pushing_small in a folder.

    Args:
      folder: TFDS's data_dir.
      videos: 'train' and 'test' videos, uint8 [n, 2, 30, 64, 64, 3]; camera 0 is image_main.
      file_format: format of the records, 'tfrecord' or 'array_record'.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = tfds.builder("bair_robot_pushing_small", data_dir=folder, file_format=file_format)
    (url,) = builder.url_infos
    raw = _unpacked(builder, folder, url, "TAR") / "softmotion30_44k"
    for split, both_cameras in videos.items():
        (raw / split).mkdir(parents=True)
        for number, cameras in enumerate(both_cameras):
            example = tf.train.SequenceExample()
            feature = example.context.feature
            for camera, frames in zip(("image_main", "image_aux1"), cameras, strict=True):
                for time, frame in enumerate(frames):
                    feature[f"{time}/{camera}/encoded"].bytes_list.value.append(frame.tobytes())
            for time in range(30):
                feature[f"{time}/action"].float_list.value.extend(bair_action(number, time))
                feature[f"{time}/endeffector_pos"].float_list.value.extend([0.0] * 3)
            path = raw / split / f"traj_{number}_to_{number}.tfrecords"
            with tf.io.TFRecordWriter(str(path)) as writer:
                writer.write(example.SerializeToString())
    builder.download_and_prepare()


def bair_action(number: int, time: int | np.ndarray) -> np.ndarray:
    """Returns the 4 numbers of the action of a frame of a video of a split."""
    return np.array([1.0, 2.0, 3.0, 4.0]) + number / 10 + time / 100


def prepare_ucf101(
    folder: Path, videos: Mapping[str, np.ndarray], test: set[str], file_format: str
) -> None:
    """Prepares ucf101/ucf101_1 in a folder; needs ffmpeg on PATH, as TFDS's builder does.

    Args:
      folder: TFDS's data_dir.
      videos: videos by name, such as 'v_Archery_g01_c01.avi', uint8 [frames, height, width, 3].
      test: names of the videos in the test split.
      file_format: format of the records, 'tfrecord' or 'array_record'.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.video import ucf101

    builder = tfds.builder("ucf101/ucf101_1", data_dir=folder, file_format=file_format)
    clips = _unpacked(builder, folder, ucf101.UCF_101_URL, "ZIP") / "UCF101"
    lists = _unpacked(builder, folder, ucf101.SPLITS_URL, "ZIP") / "ucfTrainTestlist"
    clips.mkdir()
    lists.mkdir()
    for name, frames in videos.items():
        # MPEG-4 in an .avi file, as in UCF101.
        write_video(clips / name, frames, codec="mpeg4", options={"b": "4000000"})
    for split, names in (("train", sorted(videos.keys() - test)), ("test", sorted(test))):
        lines = [f"{name.split('_')[1]}/{name}" + " 1" * (split == "train") for name in names]
        (lists / f"{split}list01.txt").write_text("\n".join(lines) + "\n")
    builder.download_and_prepare()


def link_ffmpeg(folder: Path) -> str:
    """Links the ffmpeg of imageio-ffmpeg into a folder, and returns a PATH with that folder."""
    import imageio_ffmpeg

    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def _unpacked(builder, folder: Path, url: str, method: str) -> Path:
    """Creates the folder into which TFDS unpacks the download of a URL, as if unpacked."""
    from tensorflow_datasets.core.download import checksums, resource

    info = (builder.url_infos or checksums.get_all_url_infos())[url]
    name = resource.get_dl_fname(url, info.checksum)
    downloads = folder / "downloads"
    archive = downloads / builder.name / name
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.touch()
    resource.write_info_file(
        url=url,
        path=archive,
        dataset_name=builder.name,
        original_fname=info.filename or url.rsplit("/", 1)[1],
        url_info=info,
    )
    unpacked = downloads / "extracted" / f"{method}.{name}"
    unpacked.mkdir(parents=True)
    return unpacked
