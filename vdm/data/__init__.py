"""Data sets: from video files or procedural generation to batches of videos in [-1, 1]."""
