"""Learners of the turn of the wheel: one module a system, each a learner and what compares its candidates."""
