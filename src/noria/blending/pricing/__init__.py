"""Boosts for a goal: offline by the dual, online by feedback."""
