"""Checking of finished reports: what holds and what does not, offline, without a model."""
