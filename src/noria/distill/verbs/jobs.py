"""The jobs behind the verbs of `noria distill`: from what a user typed to files on disk.

Everything that a user can get wrong is checked before the first file is written: settings, prompts, model, then the run
folder. A job says how far it is on stderr and returns what there is to tell; it prints no answer itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError, DivergenceError, RunError
from noria.core.files import output_path, write_atomic
from noria.core.models.flow import SmallTransformerConfig
from noria.core.pages.charts import image_grid
from noria.core.progress import Progress, Task
from noria.core.runs.checkpoints import fingerprint
from noria.core.runs.outputs import check_run_folder
from noria.core.runs.run import Run, package_versions, save_settings, settled
from noria.core.training.loop import training
from noria.core.training.parallel import Parallel
from noria.distill.adapters import FlowAdapter, SmallAdapter
from noria.distill.config import DistillConfig
from noria.distill.data.images import ImageSet, digits
from noria.distill.data.mnist import mnist
from noria.distill.data.prompts import Prompts, read_prompts
from noria.distill.evaluation.features import PIXELS, Lens, classifier_lens, vision_lens
from noria.distill.evaluation.grids import LADDER_KEY, Grid, draw_samples, even_grid, ladder_grids
from noria.distill.evaluation.image_folder import read_images
from noria.distill.evaluation.judge import Judge, Score
from noria.distill.evaluation.views import Views, batches, thumbnails, view
from noria.distill.students.card import Exported
from noria.distill.students.export import export_student
from noria.distill.students.loading import Student, open_model, open_student
from noria.distill.training.teacher import save_teacher, train_teacher
from noria.distill.training.trainer import Distiller
from noria.distill.verbs.pages import write_evaluation_page, write_run_page

__all__ = ["Trained", "evaluate", "export", "report", "sample", "teacher", "train"]

TEACHER_GUIDANCE = 4.5
"""Guidance of a teacher that a guided student is compared with (the papers' evaluation)."""


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        folder: the run's.
        report: its page; None in a process that writes no files.
        iterations, student_steps: made in all.
        seconds: of this session.
        small: whether the model is a small transformer, which has no diffusers export.
    """

    folder: Path
    report: Path | None
    iterations: int
    student_steps: int
    seconds: float
    small: bool


def train(
    config: DistillConfig, folder: Path, *, allow_download: bool = False, progress: Progress | None = None
) -> Trained:
    """Train, or go on training, in `folder`, and write its report.

    Args:
        config: the settings.
        folder: the run's; made if need be.
        allow_download: whether a hub model may be fetched.
        progress: where to say how far it is.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        DivergenceError: the run blew up.
    """
    parallel = Parallel("distill")
    said = Progress(quiet=True) if progress is None or not parallel.main else progress
    prompts = read_prompts(Path(config.prompts or ""))
    check_run_folder(folder)
    adapter = open_model(
        config.model or "",
        height=config.height,
        width=config.width,
        precision=config.precision,
        device=parallel.device,
        allow_download=allow_download,
    )
    _check_prompts(adapter, prompts)
    if config.critic.source == "anchor_conditioned" and not isinstance(adapter, SmallAdapter):
        raise ConfigError(
            f"an anchor-conditioned critic needs a network that takes the anchor's σ, and {adapter.name} does not",
            where="critic.source",
            mend="use anchor_x0, final_x0 or mix",
        )
    identity = _identity(config, adapter, prompts, folder)
    distiller = Distiller(adapter, config, prompts, parallel=parallel)
    began = time.perf_counter()
    with said, Run.open(folder, config=identity, writer=parallel.main) as run:
        parallel.barrier()
        if parallel.main:
            save_settings(folder, config)
        ladder = _Ladder(config, adapter, prompts, folder if parallel.main else None, said)
        left_out = f", {prompts.duplicates} repetitions left out" if prompts.duplicates else ""
        said.say(f"{len(prompts):,} prompts{left_out}; {_parameters(distiller)} trainable parameters")
        with training(run, said, config.iterations, page=write_run_page, unit="iteration") as task:
            distiller.train(run, on_iteration=_Watch(task), on_ladder=ladder)
        ladder.finish(distiller)
        page = write_run_page(folder) if parallel.main else None
        parallel.barrier()
    return Trained(
        folder,
        page,
        distiller.iteration,
        distiller.student_steps,
        time.perf_counter() - began,
        isinstance(adapter, SmallAdapter),
    )


def report(folder: Path) -> Path:
    """Write a run's `report.html` again, from its files.

    Raises:
        RunError: there is no run.
    """
    return write_run_page(folder)


def _check_prompts(adapter: FlowAdapter, prompts: Prompts) -> None:
    """A small model's prompts are class numbers: say so now rather than in the middle of an epoch."""
    if isinstance(adapter, SmallAdapter):
        try:
            adapter.encode(prompts.texts)
        except DataError as error:
            raise DataError(error.what, where=prompts.source, mend=error.mend) from error


def _identity(config: DistillConfig, adapter: FlowAdapter, prompts: Prompts, folder: Path) -> dict[str, Any]:
    """What must be the same for a run to go on: settings but the number of iterations; model and prompts by content.

    Where the content is the same, a model or prompt file that has moved is no difference.

    Raises:
        RunError: the run in the folder is of another model or of other prompts.
    """
    values = config.model_dump(mode="json", exclude={"iterations"})
    inputs = {
        "model": (str(config.model), fingerprint(adapter.network)),
        "prompts": (str(config.prompts), hashlib.sha256("\n".join(prompts.texts).encode()).hexdigest()[:16]),
    }
    return settled(folder, values, inputs)


class _Watch:
    """Tells speed and losses while a training runs."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.losses: dict[str, float] = {}
        self.times: list[float] = [time.perf_counter()]

    def __call__(self, iteration: int, values: Mapping[str, float]) -> None:
        self.losses |= {n.removeprefix("loss_"): v for n, v in values.items() if n.startswith("loss_")}
        self.times = [*self.times[-20:], time.perf_counter()]
        speed = (len(self.times) - 1) / max(self.times[-1] - self.times[0], 1e-9)
        losses = "  ".join(f"{name} {value:.3g}" for name, value in sorted(self.losses.items()))
        self.task.at(iteration, f"{speed:.3g} it/s  {losses}")


def _parameters(distiller: Distiller) -> str:
    count = sum(p.numel() for p in distiller.roles.parameters("student").values())
    return f"{count / 1e6:,.1f} million" if count >= 1e6 else f"{count:,}"


class _Ladder:
    """The ladder during and after a training: the same prompts, noise and teacher's run each time.

    The teacher's run is made when first needed. Every process draws, since a sharded model needs them all; one writes.
    """

    def __init__(
        self,
        config: DistillConfig,
        adapter: FlowAdapter,
        prompts: Prompts,
        folder: Path | None,
        progress: Progress,
    ) -> None:
        self.config, self.adapter, self.folder, self.progress = config, adapter, folder, progress
        small = isinstance(adapter, SmallAdapter)
        self.samples, self.batch_size = (100, 100) if small else (16, 8)
        self.prompts = _cycled(prompts.texts, self.samples)
        self.grids = ladder_grids(adapter.contract, config.schedule.steps)
        self.judge: Judge | None = None

    def __call__(self, distiller: Distiller) -> dict[str, float]:
        """Distances by grid, for the log; the trained grid's pictures go to a file."""
        scores = self._climb(distiller)
        own = _own_grid(self.grids, self.adapter, self.config.schedule.steps)
        (mine,) = [s for s in scores if s.grid == own]
        if self.folder is not None and mine.pictures is not None:
            name = f"step-{distiller.iteration:08d}.png"
            write_atomic(self.folder / "pictures" / name, _sheet([f"{own.name} steps"], [mine.pictures]))
        return {f"{LADDER_KEY}{s.grid.name}": _number(s.figures["sliced_wasserstein"]) for s in scores}

    def finish(self, distiller: Distiller) -> None:
        """The ladder of the trained student beside its teacher's, in files."""
        task = self.progress.task("ladder")
        began = time.perf_counter()
        scores = self._climb(distiller)
        assert self.judge is not None, "the ladder was climbed"
        scores += [self.judge.score(distiller, grid, role="teacher") for grid in self.grids]
        scores.append(self.judge.long_run())
        task.done()
        if self.folder is None:
            return
        entry = {
            "name": self.folder.resolve().name,
            "step": distiller.iteration,
            **_described(self.judge, self.prompts, _teacher_name(self.judge), time.perf_counter() - began),
            "scores": [s.to_json() for s in scores],
        }
        _write_scores(self.folder, "ladder.json", "pictures/ladder.png", entry, scores)

    def _climb(self, distiller: Distiller) -> list[Score]:
        if self.judge is None:
            self.judge = Judge(
                distiller,
                self.prompts,
                seed=self.config.seed,
                guidance=_teacher_guidance(self.config, self.adapter),
                batch_size=self.batch_size,
            )
        return [self.judge.score(distiller, grid) for grid in self.grids]


# -- sampling ---------------------------------------------------------------------------------------------------------


def sample(
    source: Path,
    output: str | None,
    *,
    prompts: Sequence[str] = (),
    prompt_file: Path | None = None,
    steps: int | None = None,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    count: int = 1,
    as_teacher: bool = False,
    guidance: float = 1.0,
    model: str | None = None,
    allow_download: bool = False,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Path:
    """Draw images with a student and write them as PNG files, with a grid of all of them.

    Args:
        source: a run or an exported student.
        output: the folder for the images; `samples/<name of the source>` by default.
        prompts: what to draw.
        prompt_file: more of that; a run's own first eight prompts when there are neither.
        steps: evenly spaced steps; the student's own grid when None.
        sigmas: a pre-shift σ grid instead.
        seed: image n of a command has a noise of its own that depends on (seed, n) alone.
        count: images a prompt.
        as_teacher: draw with the run's teacher instead.
        guidance: the teacher's; a student has 1.
        model: where the run's model is now, or the teacher of an export.
        allow_download: whether a hub model may be fetched.
        batch_size: images at a time.
        progress: where to say how far it is.

    Returns:
        The folder.

    Raises:
        NoriaError: anything that a user can mend.
    """
    if guidance != 1 and not as_teacher:
        raise ConfigError(
            f"guidance {guidance:g} on the student",
            where="--guidance",
            mend="a few-step student samples without guidance; leave it out, or draw with --teacher",
        )
    if steps is not None and sigmas is not None:
        raise ConfigError("both --steps and --sigmas given", mend="give one of them")
    if count < 1 or batch_size < 1:
        raise ConfigError(f"{min(count, batch_size)} images", where="--count", mend="give 1 or more")
    folder = output_path(output) if output is not None else Path("samples") / source.resolve().name
    wanted = [*prompts, *(read_prompts(prompt_file).texts if prompt_file is not None else ())]
    student = open_student(source, teacher=model, device=_device(), allow_download=allow_download)
    if as_teacher and not student.has_teacher:
        raise ConfigError(
            "an exported student comes without its teacher", where="--teacher", mend="name it with --model"
        )
    if not wanted and student.config is not None and student.config.prompts:
        wanted = list(read_prompts(Path(student.config.prompts)).texts[:8])
    if not wanted:
        raise DataError("no prompts", mend="give --prompt or --prompts")
    contract = student.adapter.contract
    if steps is not None:
        grid = even_grid(contract, steps)
    elif as_teacher and sigmas is None:
        grid = even_grid(contract, 50)
    else:
        pre = sigmas or student.sigmas
        grid = Grid(str(len(pre)), tuple(float(s) for s in contract.grid(pre)))
    each = [prompt for prompt in wanted for _ in range(count)]
    with progress or Progress(quiet=True) as said:
        task = said.task("sample", grid.steps * -(-len(each) // batch_size))
        latents = draw_samples(
            student,
            each,
            grid,
            seed=seed,
            role="teacher" if as_teacher else "student",
            guidance=guidance,
            batch_size=batch_size,
            on_batch=task.advance,
        )
        entries, rows = [], []
        for number, (prompt, latent) in enumerate(zip(each, latents, strict=True)):
            if not bool(latent.isfinite().all()):
                raise DivergenceError(
                    f"image {number} is not finite", where=str(source), mend="use an earlier checkpoint"
                )
            image = student.adapter.decode(latent[None])
            name = f"image-{number:04d}.png"
            write_atomic(folder / name, _png(image))
            rows.append(view([image], PIXELS, 1).pictures[0])
            entries.append({"file": name, "prompt": prompt, "noise": number})
        task.done(f"{len(each)} images at {grid.steps} steps")
    columns = count if count > 1 else min(len(rows), 8)
    blank = np.zeros_like(rows[0])
    rows += [blank] * (-len(rows) % columns)
    lines = [np.stack(rows[start : start + columns]) for start in range(0, len(rows), columns)]
    labels = [_short(wanted[n]) for n in range(len(lines))] if count > 1 else [""] * len(lines)
    write_atomic(folder / "grid.png", _sheet(labels, lines))
    about = {
        "source": str(source),
        "step": student.step,
        "role": "teacher" if as_teacher else "student",
        "guidance": guidance,
        "seed": seed,
        "sigmas": list(grid.sigmas),
        "images": entries,
    }
    write_atomic(folder / "samples.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return folder


# -- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(
    source: Path,
    output: str | None,
    *,
    prompt_file: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    reference: str | None = None,
    features: str | None = None,
    model: str | None = None,
    allow_download: bool = False,
    batch_size: int | None = None,
    reference_steps: int = 50,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Path]:
    """Climb the ladder with a student and its teacher, and write table, JSON and page.

    Args:
        source: a run or an exported student.
        output: the folder for the results; `evaluation` in a run, `evaluation/<name>` for an export.
        prompt_file: prompts; a run's own by default.
        samples: how many a grid; 64, or 500 of a small model.
        seed: of their noise.
        guidance: of the teacher; by default 1 for a student trained without guidance, else 4.5 (1 plus the guidance
            distilled in, for a small model).
        reference: real images to compare with instead of the teacher's: a folder, or for a small model "digits" or an
            MNIST folder, seen through a classifier that is trained on them first.
        features: a folder with a vision model of transformers (CLIP, DINOv2, …), whose features to compare in.
        model: where the run's model is now, or the teacher of an export.
        allow_download: whether a hub model may be fetched.
        batch_size: samples at a time.
        reference_steps: of the teacher's long run.
        progress: where to say how far it is.

    Returns:
        The results as written to `evaluation.json`, and the page.

    Raises:
        NoriaError: anything that a user can mend.
    """
    if samples is not None and samples < 2:
        raise ConfigError(f"{samples} samples", where="--samples", mend="give 2 or more")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batches of {batch_size}", where="--batch-size", mend="give 1 or more")
    if output is not None:
        output_path(output)
    given = read_prompts(prompt_file) if prompt_file is not None else None
    device = _device()
    student = open_student(source, teacher=model, device=device, allow_download=allow_download)
    adapter, config = student.adapter, student.config
    small = isinstance(adapter, SmallAdapter)
    if given is None and config is not None and config.prompts:
        given = read_prompts(Path(config.prompts))
    if given is None:
        raise DataError("no prompts", mend="give --prompts")
    _check_prompts(adapter, given)
    if guidance is None:
        guidance = _teacher_guidance(config, adapter) if config is not None else TEACHER_GUIDANCE
    count, batch = samples or (500 if small else 64), batch_size or (250 if small else 8)
    folder = output_path(output) if output is not None else _evaluation_folder(source, student)
    began = time.perf_counter()
    with progress or Progress(quiet=True) as said:
        lens, real, real_name = _compared_with(reference, features, adapter, batch, device, said)
        grids = ladder_grids(adapter.contract, student.sigmas)
        arms = ["student", "teacher"] if student.has_teacher else ["student"]
        calls = len(arms) * sum(g.steps for g in grids) + (reference_steps if student.has_teacher else 0)
        task = said.task("evaluate", calls * -(-count // batch))
        wanted = _cycled(given.texts, count)
        judge = Judge(
            student,
            wanted,
            seed=seed,
            teacher=student.has_teacher,
            guidance=guidance,
            real=real,
            lens=lens,
            reference_steps=reference_steps,
            batch_size=batch,
            on_batch=task.advance,
        )
        scores = [
            judge.score(student, grid, role="teacher" if arm == "teacher" else "student")
            for arm in arms
            for grid in grids
        ]
        if student.has_teacher:
            scores.append(judge.long_run())
        task.done()
    name = real_name or _teacher_name(judge)
    entry = {
        "name": student.name,
        "step": student.step,
        **_described(judge, wanted, name, time.perf_counter() - began),
        "scores": [s.to_json() for s in scores],
    }
    _write_scores(folder, "evaluation.json", "samples.png", entry, scores)
    write_evaluation_page(folder / "evaluation.html", entry, folder / "samples.png")
    return entry, folder / "evaluation.html"


def _evaluation_folder(source: Path, student: Student) -> Path:
    return source / "evaluation" if student.config is not None else Path("evaluation") / student.name


def _compared_with(
    reference: str | None,
    features: str | None,
    adapter: FlowAdapter,
    batch: int,
    device: str,
    progress: Progress,
) -> tuple[Lens, Views | None, str]:
    """Lens, real images seen through it, and their name."""
    lens = vision_lens(Path(features), device) if features is not None else PIXELS
    if reference is None:
        return lens, None, ""
    if isinstance(adapter, SmallAdapter):
        data = _image_set(reference)
        task = progress.task("train a classifier to look through")
        lens = classifier_lens(data, adapter)
        task.done()
        images = torch.as_tensor(data.images) / 2 + 0.5
        return lens, view(batches(images, batch), lens), f"{len(data):,} real images ({data.name})"
    height, width = getattr(adapter, "size", (256, 256))
    files = read_images(Path(reference), height, width)
    return lens, view(files.batches(batch), lens), f"{len(files):,} real images ({reference})"


# -- export, teacher --------------------------------------------------------------------------------------------------


def export(
    source: Path,
    output: str,
    *,
    lora: bool = False,
    lora_rank: int = 64,
    sigmas: Sequence[float] | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    model: str | None = None,
    allow_download: bool = False,
) -> Exported:
    """Write a run's student as a diffusers folder.

    Args:
        source: the run.
        output: the folder; must not be there yet, unless `overwrite`.
        lora: also a LoRA file of a fully trained student.
        lora_rank: of that file.
        sigmas: the pre-shift grid to record as the student's own; the trained one by default.
        dtype: of the weights, "fp32", "bf16" or "fp16"; the model's own by default.
        overwrite: replace an earlier export.
        model: where the run's model is now.
        allow_download: whether a hub model may be fetched.

    Raises:
        NoriaError: anything that a user can mend; no half-written folder stays.
    """
    folder = output_path(output)
    if (source / "model_index.json").is_file():
        raise RunError("it is exported already", where=str(source), mend="give the run's folder")
    student = open_student(source, teacher=model, allow_download=allow_download)
    config = student.config
    assert config is not None, "it is a run"
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return export_student(
        student.adapter,
        student.networks("student"),
        folder,
        sigmas_pre_shift=sigmas or student.sigmas,
        lora=lora,
        lora_rank=lora_rank,
        dtype=types[dtype] if dtype else None,
        overwrite=overwrite,
        settings=config.model_dump(mode="json") | {"iterations": student.step},
        local_files_only=not allow_download,
    )


def teacher(
    data: str,
    output: str,
    *,
    steps: int = 3000,
    width: int = 64,
    blocks: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, Path]:
    """Train a small class-conditional teacher on real images.

    Args:
        data: "digits" (scikit-learn's, 8 × 8) or the folder of MNIST (28 × 28).
        output: the `.safetensors` file to write.
        steps: optimiser steps.
        width: of the transformer.
        blocks: of the transformer; 3 for 8 × 8, else 4.
        batch_size: images a step.
        seed: of weights and batches.
        overwrite: replace the file.
        progress: where to say how far it is.

    Returns:
        The file, and a prompts file with the class numbers beside it.

    Raises:
        NoriaError: anything that a user can mend.
    """
    path = output_path(output)
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"{output!r} does not end in .safetensors", where="--output", mend="name a .safetensors file"
        )
    if path.exists() and not overwrite:
        raise RunError("the file exists already", where=str(path), mend="choose another, or give --overwrite")
    if steps < 2 or batch_size < 1:
        raise ConfigError(
            f"{steps} steps of {batch_size} images", mend="give 2 or more steps, 1 or more images"
        )
    images = _image_set(data)
    size = images.images.shape[-1]
    shape = SmallTransformerConfig(
        image_size=size,
        channels=images.images.shape[1],
        patch=2 if size <= 16 else 4,
        width=width,
        blocks=blocks or (3 if size <= 16 else 4),
        classes=images.classes,
    )
    with progress or Progress(quiet=True) as said:
        task = said.task(f"teacher of {images.name}", steps)
        network = train_teacher(
            torch.as_tensor(images.images),
            torch.as_tensor(images.labels),
            shape,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            on_step=lambda step, loss: task.at(step, f"loss {loss:.4f}"),
        )
        task.done()
    prompts = path.with_name(f"{path.stem}-prompts.txt")
    save_teacher(network, path)
    write_atomic(prompts, "".join(f"{n}\n" for n in range(images.classes)))
    return path, prompts


# -- helpers ----------------------------------------------------------------------------------------------------------


def _image_set(name: str) -> ImageSet:
    return digits() if name == "digits" else mnist(Path(".data/mnist") if name == "mnist" else Path(name))


def _cycled(texts: Sequence[str], count: int) -> list[str]:
    return [texts[n % len(texts)] for n in range(count)]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _teacher_guidance(config: DistillConfig, adapter: FlowAdapter) -> float:
    """Guidance of the teacher that a student is compared with: of the strength distilled in, at most the papers'."""
    o = config.objective
    scale = o.ca_scale - (o.ca_convention == "guidance") if o.ca_weight else 0.0
    distilled = max(
        1 + scale * (scale > 0), o.dm_guidance, o.consistency_guidance if o.consistency_weight else 1.0
    )
    return min(distilled, TEACHER_GUIDANCE) if distilled != 1 else 1.0


def _own_grid(grids: Sequence[Grid], adapter: FlowAdapter, trained: Sequence[float]) -> Grid:
    """The grid of the ladder that is the trained one."""
    true = [float(s) for s in adapter.contract.grid(trained)]
    return next(g for g in grids if g.steps == len(trained) and np.allclose(g.sigmas, true))


def _teacher_name(judge: Judge) -> str:
    return f"the teacher's {judge.long_grid.steps} steps at guidance {judge.guidance:g}"


def _described(judge: Judge, prompts: Sequence[str], reference: str, seconds: float) -> dict[str, Any]:
    return {
        "samples": len(prompts),
        "seed": judge.seed,
        "guidance": judge.guidance,
        "reference": reference,
        "lens": judge.lens.name,
        "shown": [_short(p, 60) for p in prompts[: judge.columns]],
        "seconds": round(seconds, 2),
        "versions": package_versions(),
    }


def _write_scores(
    folder: Path, name: str, picture: str, entry: Mapping[str, Any], scores: Sequence[Score]
) -> None:
    write_atomic(folder / name, json.dumps(entry, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    shown = [s for s in scores if s.pictures is not None]
    if shown:
        labels = [f"{s.arm}, {s.grid.name}" for s in shown]
        write_atomic(folder / picture, _sheet(labels, [s.pictures for s in shown if s.pictures is not None]))


def _sheet(labels: Sequence[str], rows: Sequence[Any]) -> bytes:
    images = np.stack(rows)
    return image_grid(images, labels, scale=max(1, 56 // images.shape[2]))


def _png(image: Tensor) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(thumbnails(image, max(image.shape))[0]).save(data, "PNG")
    return data.getvalue()


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _short(text: str, length: int = 32) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
