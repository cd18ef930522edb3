"""The verbs of `noria grounding`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """Ask whether a right rating is grounded in what the model saw (MM-OCEAN).

    SOURCE is a run folder, or a file of predictions with --data. Results are aggregates over videos; nothing here
    rates a person.
    """,
    {
        "validate": "Check annotations and count what is in them.",
        "synth": "Make SynthOCEAN: clips, records and questions with known answers.",
        "build": "Write a benchmark of one's own consented clips, with a chat model.",
        "review": "Make sheets for people to verify observations and questions on.",
        "run": "Ask a model a whole benchmark.",
        "judge": "Judge the reasons that a model gave.",
        "score": "Score a model's answers.",
        "audit": "Find what is wrong with questions and labels.",
        "compare": "Compare models on the same videos.",
        "report": "Write a page of one model, or a board of several.",
        "export": "Hand a benchmark or answers to another tool.",
    },
)
