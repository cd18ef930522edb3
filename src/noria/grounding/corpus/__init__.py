"""Words, records and clips of a benchmark."""
