"""Is an answer right, and replay tables: one's own and others'."""
