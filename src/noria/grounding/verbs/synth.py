"""`noria grounding synth`: SynthOCEAN as clips and annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import RunError
from noria.core.files import inside, lock, write_atomic
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.grounding.synth.config import Knobs
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, SeedOption

if TYPE_CHECKING:
    from noria.grounding.corpus.records import Corpus


class SynthConfig(Knobs, SeedOption, OutputOption, QuietOption):
    """Settings of `noria grounding synth`."""

    samples: Annotated[int, Option(was=("--count",))] = Field(
        100, ge=2, le=100_000, description="Number of clips to make."
    )


@make_command(SynthConfig, extra="grounding")
def command(config: SynthConfig) -> None:
    """Write annotations/ and videos/ of SynthOCEAN, with every right answer known."""
    corpus, folder = run(config, Progress(quiet=config.quiet))
    click.echo(f"{len(corpus)} clips    {folder / 'videos'}\nannotations  {folder / 'annotations'}")


def run(config: SynthConfig, progress: Progress) -> tuple[Corpus, Path]:
    """Write SynthOCEAN, and give its folder. Started again, it makes only the clips that are not there.

    Raises:
        RunError: the folder holds another world, or the disk refuses.
    """
    from noria.grounding.corpus.files import save_corpus
    from noria.grounding.synth.drawing import render
    from noria.grounding.synth.world import make_corpus

    folder, knobs = results_folder("grounding", config.output, "synth"), config.part(Knobs)
    scenes, corpus = make_corpus(config.samples, knobs, seed=config.seed)
    world = json.dumps({"count": config.samples, "seed": config.seed, "knobs": knobs.model_dump()}, indent=1)
    with lock(folder), progress:
        note = folder / "world.json"
        if note.is_file() and note.read_bytes() != world.encode():
            raise RunError("the folder holds another world", where=str(folder), mend="give another --output")
        write_atomic(note, world)
        save_corpus(corpus, folder / "annotations")
        task = progress.task("clips", total=config.samples)
        for scene in scenes:
            path = inside(folder / "videos", scene.video_id)
            if not path.exists():
                render(scene, knobs, path)
            task.advance()
        task.done()
    return corpus, folder
