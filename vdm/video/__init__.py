"""Reads, writes and displays videos: the only package that opens videos and images.

from vdm.video import find_videos, open_video

video = open_video("clip.mp4")
video.frames([0, 8, 16])  # uint8 [3, height, width, 3]
"""

from vdm.video.errors import UnreadableVideoError
from vdm.video.folders import find_videos
from vdm.video.read import open_video

__all__ = ["UnreadableVideoError", "find_videos", "open_video"]
