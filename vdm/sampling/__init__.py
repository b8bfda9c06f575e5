"""Sampling: tasks on top of the samplers, and the files of samples."""
