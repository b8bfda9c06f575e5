"""The configuration of a command: where it comes from, and how it is stored."""
