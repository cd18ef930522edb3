"""Heads in their vendors' layouts, in the model's own files, and models opened together with them."""
