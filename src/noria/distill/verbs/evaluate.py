"""`noria distill evaluate`: judge a student on the ladder of steps, beside its teacher."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError, DataError
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.distill.verbs.options import StudentOptions, silence_libraries
from noria.distill.verbs.pages import write_evaluation_page
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption, SeedOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.distill.adapters import FlowAdapter
    from noria.distill.evaluation.features import FeatureExtractor
    from noria.distill.evaluation.judge import RealImages


class EvaluateConfig(StudentOptions, SeedOption, OutputOption, JsonOption, QuietOption):
    """Settings of `noria distill evaluate`."""

    prompts: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="File of prompts (default: those of the run)."
    )
    samples: int | None = Field(
        None, ge=2, description="Number of samples on each grid (default: 64; 500 of a small model)."
    )
    batch_size: int | None = Field(
        None, ge=1, description="Number of samples drawn at a time (default: 8; 250 of a small model)."
    )
    guidance: float | None = Field(
        None, description="Guidance of the teacher (default: as distilled in, at most 4.5)."
    )
    reference: Annotated[str | None, Option(metavar="DIR")] = Field(
        None,
        description='Folder of real images to compare with; for a small model "digits" or the folder of MNIST.',
    )
    features: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of a transformers vision model whose features are compared."
    )


@make_command(EvaluateConfig, extra="distill", needs=("torch",))
def command(config: EvaluateConfig) -> None:
    """Judge a student at 1, 2, 3, 4, 6, 8 steps and under a foreign shift, beside its teacher.

    The teacher draws with guidance and without.

    Results go to the folder `evaluation` of a run, or to runs/distill/evaluate-NAME for an exported student.
    """
    results, page = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps(results, indent=1, ensure_ascii=False))
        return
    click.echo(_table(results["scores"]))
    click.echo(
        f"\ncompared with {results['reference']}, through {results['lens']}; {results['samples']} samples"
    )
    click.echo(f"report  {page}\ndata    {page.with_suffix('.json')}")


def run(config: EvaluateConfig, progress: Progress) -> tuple[dict[str, Any], Path]:
    """Climb the ladder with a student and its teacher, and write `evaluation.json`, samples and page.

    Returns:
        The results as written, and the page.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = None if config.output is None else results_folder("distill", config.output, "")
    silence_libraries()

    from noria.distill.adapters import SmallAdapter
    from noria.distill.data.prompts import read_prompts
    from noria.distill.evaluation.grids import REFERENCE_STEPS, SamplingConfig, ladder_grids
    from noria.distill.evaluation.judge import Judge
    from noria.distill.evaluation.ladder import TEACHER_GUIDANCE, cycled, teacher_guidance, write_scores
    from noria.distill.students.loading import check_prompts, default_device, open_student

    prompts = read_prompts(config.prompts) if config.prompts is not None else None
    device = default_device()
    student = open_student(
        config.source,
        teacher=config.model,
        variant=config.variant,
        device=device,
        allow_download=config.allow_download,
    )
    adapter = student.adapter
    small = isinstance(adapter, SmallAdapter)
    if prompts is None and student.config is not None and student.config.prompts:
        prompts = read_prompts(Path(student.config.prompts))
    if prompts is None:
        raise DataError("no prompts", mend="give --prompts")
    check_prompts(adapter, prompts)
    if config.guidance is not None and not student.has_teacher:
        raise ConfigError(
            f"guidance {config.guidance:g}, but there is no teacher",
            where="--guidance",
            mend="name it with --model",
        )
    if folder is None and student.config is not None:
        folder = config.source / "evaluation"
    elif folder is None:
        folder = results_folder("distill", None, f"evaluate-{student.name}")
    guidance = config.guidance
    if guidance is None:
        guidance = teacher_guidance(student.config) if student.config is not None else TEACHER_GUIDANCE
    batch_size = config.batch_size or (250 if small else 8)
    texts = cycled(prompts.texts, config.samples or (500 if small else 64))
    began = time.perf_counter()
    with progress:
        extractor, real = _compared_with(config, adapter, batch_size, device, progress)
        grids = ladder_grids(adapter.contract, student.sigmas)
        draws = sum(grid.steps for grid in grids)
        if student.has_teacher:  # its long run and its ladder, and both again without guidance
            draws += (1 if guidance == 1 else 2) * (REFERENCE_STEPS + sum(grid.steps for grid in grids))
        task = progress.task("evaluate", draws * -(-len(texts) // batch_size))
        judge = Judge(
            student,
            texts,
            SamplingConfig(seed=config.seed, guidance=guidance, batch_size=batch_size),
            teacher=student.has_teacher,
            real=real,
            extractor=extractor,
            on_batch=task.advance,
        )
        scores = [judge.score(student, grid) for grid in grids]
        if student.has_teacher:
            scores += judge.teacher_scores(student, grids)
        task.done()
    about = {
        "name": student.name,
        "step": student.step,
        "seconds": round(time.perf_counter() - began, 2),
    }
    pictures, page = folder / "samples.png", folder / "evaluation.html"
    results = write_scores(folder / "evaluation.json", pictures, judge, scores, about)
    write_evaluation_page(page, results, pictures)
    return results, page


def _compared_with(
    config: EvaluateConfig, adapter: FlowAdapter, batch_size: int, device: str, progress: Progress
) -> tuple[FeatureExtractor, RealImages | None]:
    """Features to compare in, and the real images to compare with, if there are any."""
    import torch

    from noria.distill.adapters import SmallAdapter
    from noria.distill.data.mnist import image_set
    from noria.distill.evaluation.features import PIXELS, classifier_features, vision_features
    from noria.distill.evaluation.image_folder import read_images
    from noria.distill.evaluation.judge import RealImages
    from noria.distill.evaluation.views import batches, view

    extractor = vision_features(config.features, device) if config.features is not None else PIXELS
    if config.reference is None:
        return extractor, None
    if isinstance(adapter, SmallAdapter):
        if config.features is not None:
            raise ConfigError(
                "a small model is compared with real images through a classifier of them",
                where="--features",
                mend="leave it out, or leave --reference out",
            )
        data = image_set(config.reference)
        task = progress.task("train a classifier to look through")
        extractor = classifier_features(data, adapter)
        task.done()
        images = torch.as_tensor(data.images) / 2 + 0.5
        views = view(batches(images, batch_size), extractor)
        return extractor, RealImages(f"{len(data):,} real images ({data.name})", views)
    files = read_images(Path(config.reference), *getattr(adapter, "size", (256, 256)))
    views = view(files.batches(batch_size), extractor)
    return extractor, RealImages(f"{len(files):,} real images ({config.reference})", views)


def _table(scores: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for score in scores for name in score["figures"]))
    lines = [["arm", "steps", *(name.replace("_", " ") for name in names)]]
    for score in scores:
        values = [score["figures"].get(name) for name in names]
        lines.append([score["arm"], score["grid"], *("-" if v is None else f"{v:.4g}" for v in values)])
    return table(lines, names=2)
