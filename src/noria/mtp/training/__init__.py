"""Losses from hidden states, the loop that trains a head, and its score on text."""
