"""The verbs of `noria mtp`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """Multi-token-prediction heads that keep RL rollouts fast (Bebop).

    SOURCE is a run folder, a model folder or hub id with a head in its files, or "small", which ships.
    """,
    {
        "sample": "Write the policy's own text, to train and score on.",
        "train": "Train a head on the policy's own text.",
        "evaluate": "Score a head by every rule of verification.",
        "advise": "Say whether speculation pays here, and with how many drafts.",
        "serve": "Answer chats with drafts, and count what they met.",
        "audit": "Test whether an engine samples by the model's law.",
        "rl-report": "Read an RL run's log: is it entropy, or the head?",
        "export": "Write the model with the head in its own files.",
        "report": "Write a run's report again.",
    },
    was={"eval": "evaluate"},
)
