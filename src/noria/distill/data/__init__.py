"""Prompts and real images, as they come in."""
