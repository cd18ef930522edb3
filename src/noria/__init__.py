"""Noria: the production feedback loop of a multimodal assistant.

Ten systems, side by side, each usable alone on a user's own model or data; together they close the loop
judge → credit → learn → accelerate → serve → judge. A system is a subpackage (`noria.distill`); what two of
them share is in `noria.core`; the `noria` command mounts them all.

Importing this package imports nothing else, so that `noria --help` answers at once.
"""

__version__ = "0.1.0"
