"""A student loaded from disk, and written as a diffusers folder."""
