"""Answers that were given: a run folder or a file of predictions, opened, scored and compared."""
