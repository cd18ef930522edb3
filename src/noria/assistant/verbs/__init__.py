"""Verbs of the assistant."""

from noria.verbs.command import verbs

group = verbs(
    "noria.assistant.verbs",
    "The loop: what a gateway learns from its own traffic.",
    {
        "init": "Write the configuration of a gateway from a few answers",
        "learn": "Run the next turn of a gateway: freeze, attribute, propose, gate, hand over",
        "ablate": "Say what each part of a gateway's pipeline contributes",
        "products": "Take feeds of products into a gateway's folder, or search what is there",
        "import": "Take traces of other tools' logs into a gateway's folder",
        "export": "Write data sets to learn from, or spans, out of a gateway's traces",
        "query": "Run SQL over a gateway's traces",
        "shop": "Open a simulated shop of trained parts, and see what its users teach it",
        "backup": "Copy a gateway's folder while it serves",
        "restore": "Make a gateway's folder from a backup",
    },
)
