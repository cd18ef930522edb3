"""Traces of what a service answered: records, redaction, storage, data sets, and the formats of other tools."""
