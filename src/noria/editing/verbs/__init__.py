"""The verbs of `noria editing`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """A planner over a frozen image editor, rewarded by atomic checklists (DDA-Thinker).

    The planner is any vision-language model on a chat server; the editor a server with images/edits or a diffusers
    pipeline.
    """,
    {
        "synthesize": "Invent tasks of reasoning edits, with pictures and references.",
        "checklist": "Write checklists for tasks, and validate every item.",
        "curate": "Drop doubled, contaminated, too easy and infeasible tasks.",
        "sft": "Teach a planner the think/answer form from examples.",
        "train": "Train a planner over a frozen editor by checklist rewards.",
        "edit": "Plan an edit, render it, check it, and write a page.",
        "evaluate": "Score RISEBench or KRIS-Bench, with and without the planner.",
        "attribute": "Say whether plans or renderings are to blame.",
        "serve": "Serve planner and editor as one images/edits API.",
    },
)
