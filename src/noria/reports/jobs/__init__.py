"""A report as a job: its settings, its folder, its plan with an estimate, and its result."""
