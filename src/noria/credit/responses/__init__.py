"""Sampled responses, and the places of their answers."""
