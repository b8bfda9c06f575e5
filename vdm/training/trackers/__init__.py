"""Trackers: what a training run logs, and where it goes. `run.open_trackers` opens all of them."""
