"""Live traffic through a router, OpenAI-compatible."""
