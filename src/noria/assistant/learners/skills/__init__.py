"""Learners of skills: descriptions, bodies, and skills that are missing."""
