"""Logs in and out: their columns, how they become tallies, and logged requests ranked again."""
