"""Judging of answers: rules, judges, tiers, blame, and the quality of the judge."""
