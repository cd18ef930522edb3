"""Ragged batches drafted and verified; text written, and its time measured."""
