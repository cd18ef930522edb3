"""Distances of samples from a reference, on the ladder of step numbers."""
