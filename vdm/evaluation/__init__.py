"""Evaluation: sets of videos in, the rows of a table out."""
