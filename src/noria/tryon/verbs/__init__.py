"""The verbs of `noria tryon`, one module each."""

from __future__ import annotations

from noria.verbs.command import verbs

__all__ = ["group"]

group = verbs(
    __name__,
    """Dress the person of a video in another garment, also while hands unzip, lift or adjust it (iTryOn).

    Use it on videos of people who agreed to it. Results carry a note that they were generated.
    """,
    {
        "inspect": "Look at a clip, its mask, hands and actions, before anything is generated.",
        "track": "Estimate hands, pose and masks of one person of a clip.",
        "annotate": "Find the timed actions of a clip, by contact or with a vision-language model.",
        "generate": "Generate a clip in another garment.",
        "serve": "Generate as jobs over HTTP, in clips of your own.",
        "prepare": "Encode the clips of a manifest once, and name those that cannot be used.",
        "train": "Train a model on clips with hands and timed actions.",
        "export": "Write a training as a diffusers folder, or its LoRA alone.",
        "evaluate": "Measure generated clips against their references.",
        "judge": "Ask a model whether generated clips show their actions.",
    },
)
