"""Sampled responses, and where they state their answer."""
