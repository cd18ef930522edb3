"""Credit in trainers of others: one module each, imported when it is asked for."""
