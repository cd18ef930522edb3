"""Versions of what answers: artefacts and bundles by content, and the pointers that say which bundle serves."""
