"""`noria tryon generate`: a clip in another garment."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria import __version__
from noria.core.config import Option
from noria.core.errors import ConfigError, DataError
from noria.core.progress import Progress
from noria.core.records import json_object
from noria.core.runs.outputs import results_folder
from noria.tryon.pipeline.inputs import ClipOptions, read_inputs
from noria.tryon.pipeline.settings import GENERATED, SamplingConfig
from noria.tryon.verbs.options import ModelChoice, ScreenOptions, silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, SeedOption

if TYPE_CHECKING:
    from noria.tryon.pipeline.estimate import Estimate
    from noria.tryon.pipeline.long import DressResult, Order

PREVIEW_STEPS, PREVIEW_SHARE = 8, 0.25


class GenerateConfig(
    ClipOptions, ModelChoice, SamplingConfig, ScreenOptions, SeedOption, OutputOption, QuietOption
):
    """Settings of `noria tryon generate`."""

    garment: Annotated[tuple[Path, ...], Option("-g", metavar="FILE", split=False)] = Field(
        (), description="Picture of the garment on white; give several for more views, or a top and a bottom."
    )
    prompt: Annotated[str, Option("-p", metavar="TEXT")] = Field(
        "", max_length=4000, description="Caption of the whole clip."
    )
    garment_is: Annotated[str, Option(metavar="TEXT")] = Field(
        "",
        max_length=400,
        description="Description of the garment; actions that it has no part for are refused.",
    )
    preview: bool = Field(
        False, description="Draw a small version first: a quarter of the pixels, at most 8 steps."
    )
    estimate: bool = Field(False, description="Print the estimated cost, and generate nothing.")
    memory: float | None = Field(
        None, gt=0, description="Most memory in GiB; size and chunks are lowered to fit."
    )
    teraflops: float | None = Field(
        None, gt=0, description="Operations in 10^12 a second that the machine reaches, to estimate the time."
    )


@make_command(GenerateConfig, extra="tryon", needs=("torch", "diffusers", "av"))
def command(config: GenerateConfig) -> None:
    """Generate a clip in another garment; the same command resumes after its finished chunks.

    Number of frames, size, times and sound are those of the source, and so is every pixel outside of the mask.
    """
    progress = Progress(quiet=config.quiet)
    folder, cost = run(config, progress)
    hours = "" if cost.seconds is None else f", about {cost.seconds:,.0f} s"
    work = (
        f"{cost.petaflop:,.3g} petaflop" if cost.petaflop >= 0.1 else f"{1e6 * cost.petaflop:,.3g} gigaflop"
    )
    click.echo(
        f"cost    {work} in {cost.passes} passes of {cost.chunks} chunks, {cost.peak_gib:.2g} GiB{hours}"
    )
    if folder is not None:
        click.echo(f"video   {folder / 'result.mp4'}\npage    {folder / 'report.html'}")


def run(config: GenerateConfig, progress: Progress) -> tuple[Path | None, Estimate]:
    """Generate a clip and write the video, its page and where it comes from.

    Returns:
        The folder, None where only an estimate was wanted, and the estimate.

    Raises:
        NoriaError: anything that a user can mend; finished chunks are kept for the next try.
    """
    if config.mask is None:
        raise ConfigError(
            "no mask of the garment", where="--mask", mend="give one; noria tryon inspect shows it"
        )
    if not config.garment:
        raise ConfigError("no picture of a garment", where="--garment", mend="give one, on white if possible")
    folder = results_folder("tryon", config.output, f"{config.video.resolve().stem}-{config.garment[0].stem}")
    silence_libraries()

    from noria.core.files import write_atomic
    from noria.tryon.actions.fitting import misfits
    from noria.tryon.pipeline.chunks import ChunkStore
    from noria.tryon.pipeline.loading import pipeline_digest
    from noria.tryon.pipeline.long import dress, order_key
    from noria.tryon.verbs.options import open_model
    from noria.tryon.video.clips import encode_clip, still

    order, inputs = _order(config)
    if lines := misfits(inputs.actions, config.garment_is):
        raise ConfigError(
            "; ".join(lines), where="--garment-is", mend="leave the action out, or describe the garment"
        )
    screen = config.screener()
    sampling, cost = _settled(config, order)
    if config.estimate:
        return None, cost
    if screen is not None:
        for shown in (inputs.clip, *(still(one, "garment") for one in order.garments)):
            screen(shown)
    pipeline = open_model(config, progress)
    key = order_key(order, sampling, config.seed, pipeline_digest(pipeline), screened=config.screen_digest())
    if _finished(folder, key):
        progress.say("the same was generated before, and is there")
        return folder, cost
    store = ChunkStore(folder / "chunks", key)
    began = time.perf_counter()
    with progress:
        task = progress.task("generate", cost.chunks * sampling.steps)
        result = dress(
            pipeline,
            order,
            sampling,
            seed=config.seed,
            store=store,
            on_step=lambda step, of: task.at(step),
        )
        task.done()
    if screen is not None:
        screen(replace(order.clip, frames=result.frames, path=Path("result")))
    sound = config.video if len(order.clip.frames) > 1 else None
    mp4 = encode_clip(result.frames, order.clip.seconds.tolist(), sound=sound, comment=GENERATED)
    (folder / "result.json").unlink(missing_ok=True)  # until it says what the video is of
    write_atomic(folder / "result.mp4", mp4)
    about = _about(config, sampling, result, cost, time.perf_counter() - began)
    _write_page(folder, inputs, result, about)
    write_atomic(
        folder / "result.json", json.dumps(about | {"key": key}, indent=1, ensure_ascii=False) + "\n"
    )
    store.clear()
    return folder, cost


def _finished(folder: Path, key: str) -> bool:
    """Whether the folder has the finished result of just this order."""
    try:
        known = json_object(folder / "result.json", "a result").get("key")
    except DataError:
        return False
    return known == key and (folder / "result.mp4").is_file() and (folder / "report.html").is_file()


def _order(config: GenerateConfig) -> tuple[Order, Any]:
    from noria.tryon.pipeline.long import Order
    from noria.tryon.video.reading import read_garment

    inputs = read_inputs(config)
    assert inputs.mask is not None
    order = Order(
        inputs.clip,
        inputs.mask,
        [read_garment(path) for path in config.garment],
        config.prompt,
        tuple(inputs.actions),
        None if inputs.hands is None else inputs.hands.track,
        inputs.pose,
    )
    return order, inputs


def _settled(config: GenerateConfig, order: Order) -> tuple[SamplingConfig, Estimate]:
    """The settings of the run, lowered for a preview and for the memory, and what they cost; no weights are read."""
    import torch

    from noria.tryon.pipeline.estimate import estimate, fitting
    from noria.tryon.pipeline.long import plan
    from noria.tryon.training.loading import outline_any

    sampling = config.part(SamplingConfig)
    models = outline_any(config.model, torch.bfloat16 if config.precision == "bf16" else torch.float32)
    height, width = plan(order, sampling)[0].canvas
    pixels = height * width
    if config.preview:
        pixels = max(256, int(pixels * PREVIEW_SHARE))
        sampling = sampling.model_copy(
            update={"most_pixels": pixels, "steps": min(sampling.steps, PREVIEW_STEPS)}
        )
    flops = None if config.teraflops is None else config.teraflops * 1e12

    def cost(tried: SamplingConfig) -> Estimate:
        way, starts, size, book = plan(order, tried)
        return estimate(
            models,
            way.canvas,
            size,
            len(starts),
            len(order.garments),
            tried,
            actions=bool(book.actions),
            flops=flops,
            offload=config.offload,
            tiling=config.tiling,
        )

    if config.memory is not None:
        sampling = fitting(cost, sampling, config.memory, pixels)
    return sampling, cost(sampling)


def _about(
    config: GenerateConfig, sampling: SamplingConfig, result: DressResult, cost: Estimate, seconds: float
) -> dict[str, Any]:
    """Where the video comes from: names of files, settings, figures. No frame and no face is in it."""
    return {
        "note": GENERATED,
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
        "generator": f"noria {__version__}",
        "model": config.model,
        "video": config.video.name,
        "garments": [path.name for path in config.garment],
        "seed": config.seed,
        "sampling": sampling.model_dump(mode="json"),
        "canvas": list(result.fit.canvas),
        "box": list(result.fit.box),
        "chunks": len(result.starts),
        "chunks_resumed": result.resumed,
        "colour_drift": result.drift,
        "segments": result.book.table.tolist(),
        "cost": asdict(cost),
        "seconds": seconds,
    }


def _write_page(folder: Path, inputs: Any, result: DressResult, about: dict[str, Any]) -> None:
    from noria.core.pages.charts import Figure
    from noria.tryon.verbs.page import write_clip_page

    rows = [
        ["model", about["model"]],
        ["part that was generated", f"{about['box'][3]} × {about['box'][2]}"],
        ["size that the model saw", f"{about['canvas'][1]} × {about['canvas'][0]}"],
        ["chunks", about["chunks"]],
        ["largest colour shift between chunks (levels of 255)", max(result.drift, default=0.0)],
        ["operations (10^15)", about["cost"]["petaflop"]],
        ["seconds", about["seconds"]],
    ]
    write_clip_page(
        folder / "report.html",
        inputs,
        title=f"Try-on: {inputs.clip.path.name}",
        intro=GENERATED,
        result=result.frames,
        more=[("Generation", [Figure.table("How it was generated", ["what", "value"], rows)])],
    )
