"""Readers of video formats: containers, images, animations and arrays."""
