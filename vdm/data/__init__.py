"""Data sets: from files, or from arithmetic, to batches of videos in [-1, 1]."""
