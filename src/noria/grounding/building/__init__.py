"""Writing a benchmark of one's own clips."""
