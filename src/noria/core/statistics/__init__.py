"""Effects with their intervals, and corrections for several tests."""
