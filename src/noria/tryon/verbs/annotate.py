"""`noria tryon annotate`: timed actions of a clip, from its hands or from a vision-language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.tryon.pipeline.inputs import ClipOptions, MaskedClipOptions, read_inputs
from noria.verbs.command import command as make_command
from noria.verbs.options import QuietOption, ServerOptions, refuse_given


class AnnotateConfig(MaskedClipOptions, ServerOptions, QuietOption):
    """Settings of `noria tryon annotate`."""

    output: Annotated[Path, Option("-o", metavar="FILE")] = Field(
        Path("actions.json"), description="File of the actions."
    )
    reach: int = Field(
        6, ge=0, le=200, description="Pixels between a hand and the mask that count as contact."
    )
    least: float = Field(
        0.25, gt=0, description="Seconds of the shortest action, and of the longest gap in one."
    )
    frames: int = Field(32, ge=2, le=256, description="Number of frames that a model is shown.")
    caption: str = Field(
        "A hand handles the garment", min_length=1, description="Caption of actions found by contact."
    )


@make_command(AnnotateConfig, extra="tryon", needs=("torch", "av"))
def command(config: AnnotateConfig) -> None:
    """Write a clip's actions: where a hand touches the mask, or, with --url and --model, what a model sees.

    Read them, and correct what is wrong: they steer what is generated.
    """
    number = run(config, Progress(quiet=config.quiet))
    click.echo(f"actions {number} in {config.output}")


def run(config: AnnotateConfig, progress: Progress) -> int:
    """Find the actions and write them.

    Returns:
        Their number.

    Raises:
        NoriaError: the clip or its parts cannot be used, or the model gives no actions.
    """
    from noria.core.files import write_atomic
    from noria.tryon.actions.detecting import contact_actions
    from noria.tryon.evaluation.interaction import contacts

    asking = bool(config.url or config.model)
    if asking:
        if given := [f"--{name}" for name in ("hands", "mask") if getattr(config, name) is not None]:
            raise ConfigError("a model sees the clip alone", where=", ".join(given), mend="leave it out")
        found = [
            "reach",
            "least",
            "caption",
            *(name for name in MaskedClipOptions.model_fields if name != "video"),
        ]
        refuse_given(config, *found, because="a model says what a hand does")
        from noria.tryon.integrations.annotator import ask_for_actions
        from noria.tryon.video.reading import read_source

        with progress:
            actions = ask_for_actions(read_source(config.video), config.server(), config.frames)
    else:
        if config.hands is None or config.mask is None:
            raise ConfigError(
                "nothing tells when a hand touches",
                where="--hands, --mask",
                mend="give both, or --url and --model of a vision-language model",
            )
        asked = [name for name in ServerOptions.model_fields if name not in ("url", "model")]
        refuse_given(
            config, "frames", *asked, because="no model is asked", mend="give --url and --model, too"
        )
        clip = config.part(MaskedClipOptions).model_dump() | {"keep_hands": False}
        inputs = read_inputs(ClipOptions(**clip))
        assert inputs.mask is not None
        assert inputs.drawn is not None
        touching = contacts(inputs.drawn, inputs.mask.numpy(), config.reach)
        seconds = inputs.clip.seconds.tolist()
        actions = contact_actions(
            touching, seconds, inputs.clip.duration, least=config.least, caption=config.caption
        )
    rows = [{"start": a.start, "end": a.end, "caption": a.caption} for a in actions]
    write_atomic(config.output, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return len(actions)
