"""Flax Linen modules: embeddings, attention, residual blocks and the space-time U-Net."""
