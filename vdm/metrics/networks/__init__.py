"""The feature networks and their preprocessing."""
