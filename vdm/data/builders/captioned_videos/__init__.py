"""Videos with captions, from video files."""
