"""Pictures of a report: opened within bounds, measured, compared, chosen."""
