"""Outside tools, one module each, imported when asked for: TRL, verl, EditScore."""
