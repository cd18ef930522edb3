"""Verbs of the assistant."""

from noria.verbs.command import verbs

group = verbs(
    "noria.assistant.verbs",
    "The loop: what a gateway learns from its own traffic.",
    {"learn": "Run the next turn of a gateway: freeze, attribute, propose, gate, hand over"},
)
