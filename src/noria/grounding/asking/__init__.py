"""Asking a model about clips, and reading what it says."""
