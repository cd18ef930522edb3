"""Bridges to other trainers, one module each, imported only when they are used."""
