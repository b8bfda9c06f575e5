"""Weights of the feature networks: their files, and the names of their tensors."""
