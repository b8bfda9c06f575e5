"""Captions as token vectors."""
