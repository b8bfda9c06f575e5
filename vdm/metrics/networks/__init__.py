"""The feature networks, and what they take as input."""
