"""Curation of tasks: taxonomy, synthesis, duplicates, decontamination, difficulty, and the report of it all."""
