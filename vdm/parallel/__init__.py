"""Devices and processes: the mesh, rows of a batch, messages between processes, preemption."""
