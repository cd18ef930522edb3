"""Outside tools that reports can use: OCR, MCP servers, a sandbox."""
