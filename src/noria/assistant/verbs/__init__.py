"""Verbs of the assistant."""
