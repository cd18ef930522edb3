"""The verbs of `noria skills`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """Evolve an assistant's skills from its own judged traffic (SkillChain).

    BANK is a folder of Agent Skills. What is accepted becomes a version; every version can be put back.
    """,
    {
        "init": "Make a bank of a folder of skills, or an empty one.",
        "import": "Take skills in with a verdict on each: check, repair, merge from upstream.",
        "create": "Write skills from task specifications and trajectories.",
        "route": "Route requests, and repair descriptions from misroutes.",
        "refine": "Repair bodies from judged answers.",
        "run": "Run the chain: create, route, refine.",
        "evaluate": "Score routes and answers of a bank.",
        "gate": "Decide about a candidate from scores of both, for a pull request.",
        "diff": "Show what two versions differ in.",
        "rollback": "Put an earlier version in place, byte for byte.",
        "drift": "Ask whether traffic has moved.",
        "ab": "Read an A/B test of two banks.",
        "serve-mcp": "Serve a bank to MCP clients.",
        "report": "Write the page of a bank: confusion, tiers, edits, gates.",
    },
)
