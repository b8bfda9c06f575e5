"""Planning: memory, FLOPs and communication of a configuration on hardware you do not have."""
