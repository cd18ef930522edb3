"""The verbs of `noria routing`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """Routers that send each request to the right model, trained with calibrated rewards (ReCal).

    ROUTER is a run folder or the folder of a saved router.
    """,
    {
        "record": "Ask every model every question once, into a replay table.",
        "train": "Train a router on a replay table.",
        "evaluate": "Judge a router on a replay table.",
        "route": "Decide about one question, with the reasons.",
        "compare": "Judge baselines and routers side by side.",
        "report": "Write the page of a run again.",
        "serve": "Serve a router as an OpenAI-compatible API.",
    },
)
