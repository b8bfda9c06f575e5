"""Accelerators: their peaks and their topologies."""
