"""Metrics of sets of videos (FVD, FID, Inception Score), and their feature networks."""
