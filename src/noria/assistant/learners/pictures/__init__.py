"""Learners of tools that make pictures: the planner of edits, and students that draw in few steps."""
