"""Policies that learn from drafted rollouts, and what to watch while they do."""
