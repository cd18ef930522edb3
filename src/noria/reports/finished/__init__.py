"""Finished reports: made again from newer sources, and asked questions."""
