"""Editors: servers of the OpenAI protocol and pipelines of diffusers behind one protocol, and what wraps them."""
