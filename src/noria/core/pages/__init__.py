"""Charts in one theme, and self-contained HTML pages."""
