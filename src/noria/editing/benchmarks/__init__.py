"""Adapters of published benchmarks on the user's copy: items, judging in our own words, strict and compat scores."""
