"""The verbs of `noria reports`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """Write and grade research reports of text, charts and images (TVIR).

    Every number of a report can be traced to the cell or sentence that it is from. All of it works without a network
    and without a model.
    """,
    {
        "index": "Read folders and packaged corpora into an index.",
        "search": "Search an index.",
        "write": "Plan and write a report.",
        "refresh": "Write a report again from newer sources, and list what changed.",
        "ask": "Answer a question from a report's evidence.",
        "verify": "Check a finished report, ours or another system's.",
        "evaluate": "Score reports by the ten metrics.",
        "bench-tasks": "Write and score reports for many requests.",
        "compare": "Compare systems on the same tasks, or two states of a report.",
        "render": "Render a report again: page, PDF, Word, references.",
        "serve": "Write reports as jobs over HTTP.",
    },
)
