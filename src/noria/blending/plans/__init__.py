"""The plan file: what each plan gives, when, and to whom."""
