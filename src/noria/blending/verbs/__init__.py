"""The verbs of `noria blending`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    "Traffic allocation where every boost is priced and accounted for (Uniboost).",
    {
        "simulate": "Write logs of a world to try the other verbs on.",
        "fit": "Align scores on outcomes and write the snapshot that serves.",
        "replay": "Rank logged requests again, and compare with other plans.",
        "attribute": "Say what each plan cost and brought, and which to retire.",
        "solve": "Set the boosts that reach every plan's target.",
        "import-legacy": "Bring over another system's boosts without their inflation.",
        "report": "Draw one page of the results of several verbs.",
        "serve": "Rank requests over HTTP, and learn from what comes of them.",
        "log": "Write a service's log as Parquet tables.",
    },
    was={"import": "import-legacy"},
)
