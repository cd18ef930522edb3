"""Scores into expected effective completions: outcomes tallied, aligners fitted, checked, looked up."""
