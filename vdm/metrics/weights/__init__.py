"""Weights of the feature networks: where their files are, and how their layers are named."""
