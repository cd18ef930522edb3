"""Rewards of plans and pictures, the streams that combine them, and what they cost in renders."""
