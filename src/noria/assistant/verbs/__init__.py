"""Verbs of the assistant."""

from noria.verbs.command import verbs

group = verbs(
    "noria.assistant.verbs",
    "The loop: what a gateway learns from its own traffic.",
    {
        "learn": "Run the next turn of a gateway: freeze, attribute, propose, gate, hand over",
        "import": "Take traces of other tools' logs into a gateway's folder",
        "export": "Write data sets to learn from, or spans, out of a gateway's traces",
        "query": "Run SQL over a gateway's traces",
        "backup": "Copy a gateway's folder while it serves",
        "restore": "Make a gateway's folder from a backup",
    },
)
