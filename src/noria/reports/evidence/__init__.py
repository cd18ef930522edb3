"""Evidence: quantities in text, sources, passages, facts, derived numbers, and whether a sentence follows from them."""
