"""Timed actions: what a person does with the garment, and when."""
