"""Accelerators: published peaks and topologies."""
