"""Curation of tasks: duplicates, decontamination, difficulty, and the report of it all."""
