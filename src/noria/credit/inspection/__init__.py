"""One response as data, and the mask test."""
