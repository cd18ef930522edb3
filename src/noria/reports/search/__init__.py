"""Search: one protocol over a local full-text index, web services and MCP servers; fetching behind a guard."""
