"""Training state, step and loop, checkpoints, and trackers."""
