"""Validation of checklists before anything trains on them."""
