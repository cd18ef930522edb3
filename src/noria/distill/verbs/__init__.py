"""The verbs of `noria distill`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """Distil a flow-matching diffusion model to a few steps (CDM, DMD2 and relatives).""",
    {
        "train": "Train a few-step student.",
        "sample": "Draw images.",
        "evaluate": "Judge a student on the ladder of steps.",
        "export": "Write a student as a diffusers folder.",
        "serve": "Draw over HTTP, as an OpenAI-compatible server.",
        "teacher": "Train a small teacher, to try things without a GPU.",
        "presets": "List the recipes.",
        "report": "Write a run's report again.",
    },
)
