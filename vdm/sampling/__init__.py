"""Tasks on top of the samplers, and where samples are written."""
