"""Attention of chosen layers while a model runs."""
