"""Evaluation of models: held-out loss, digit persistence, FVD, FID and IS, tables."""
