"""One module per outside tool, imported only when asked for."""
