"""Trackers: where a training run logs scalars, texts and videos. See `run.open_trackers`."""
