"""Folders of the user's own videos."""
