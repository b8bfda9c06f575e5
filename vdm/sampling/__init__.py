"""Sampling: tasks built on the samplers, and the files that hold samples."""
