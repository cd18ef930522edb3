"""The verbs of `noria credit`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """Credit for the tokens that carry a question to its answer (FlowTracer).

    MODEL is a model folder, a hub id, a .gguf file, or "small", a model of 740,000 parameters that ships and reasons in
    steps.
    """,
    {
        "trace": "Show what flows from question to answer in a response.",
        "mask-test": "Mask the tokens that a score calls important, and count the answers that change.",
        "train": "Train a policy by GRPO with credit of tokens.",
        "compare": "Compare trainings by credit, paired by seed.",
    },
)
