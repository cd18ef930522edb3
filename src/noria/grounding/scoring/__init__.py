"""The 2×2×2 table of rating, reasons and grounding, and everything that is said of a model."""
