"""Kinetics-600, from video files."""
