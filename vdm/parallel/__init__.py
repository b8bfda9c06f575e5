"""Devices and processes: mesh, batch rows, collective operations, preemption, launch and exit."""
