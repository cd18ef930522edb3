"""Metrics: pictures and videos against references, and what the garment does under the hands."""
