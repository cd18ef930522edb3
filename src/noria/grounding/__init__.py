"""Is a right rating grounded in what the model saw? (MM-OCEAN, arXiv 2605.22109)."""
