"""Judging the reasons that a model gave."""
