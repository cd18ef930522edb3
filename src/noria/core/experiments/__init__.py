"""Experiments on traffic: who sees which arm, readings that hold at every look, and the sample that a test needs."""
