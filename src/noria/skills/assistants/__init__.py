"""The assistant whose skills evolve: a chat model with tools, or answers that were recorded."""
