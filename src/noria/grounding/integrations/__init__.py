"""Outside tools, one module each, imported when they are asked for."""
