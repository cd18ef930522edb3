"""Whom a router can ask, and asking everyone everything once."""
