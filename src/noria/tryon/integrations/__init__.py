"""Outside tools, imported when they are asked for."""
