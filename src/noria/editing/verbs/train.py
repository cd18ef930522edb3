"""`noria editing train`: GRPO of a planner over a frozen editor, in a run folder that resumes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click
from pydantic import Field

from noria.core.config import Config
from noria.core.errors import ConfigError, DataError
from noria.core.models.config import DownloadOption
from noria.core.pages.report import RunPage, RunRecord, run_page
from noria.core.progress import Progress
from noria.core.runs.outputs import check_run_folder, named_run
from noria.editing.planner.settings import GrpoSettings
from noria.editing.verbs.options import EditorOptions, JudgeOptions, opened_judges, opened_renderer
from noria.editing.verbs.sft import PLANNER, PlannerModel, training_curves, watching
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.core.chat import Part
    from noria.core.judging.items import Checklist, Verdict
    from noria.editing.data.pictures import Scene
    from noria.editing.data.tasks import Task
    from noria.editing.environment.judges import AtomicJudges
    from noria.editing.environment.rewarding import EnvironmentSettings, RewardEnvironment
    from noria.editing.planner.rollouts import TokenCredit

EDITOR = "editor.json"
"""File of a run that holds the digests of the editor before and after the training."""


class RewardOptions(Config):
    """Bounds and shortcuts of the rewards."""

    section: ClassVar[str] = "Rewards"

    gate: bool = Field(False, description="Spare the render of a plan that fails a required item.")
    world: bool = Field(False, description="Train over the small world of the proofs and its editor.")
    in_flight: int = Field(64, ge=1, description="Rollouts that are rewarded at once.")


class TrainRunConfig(GrpoSettings, PlannerModel, RewardOptions):
    """Settings that decide a run, which its folder keeps."""


class TrainJobConfig(TrainRunConfig, EditorOptions, JudgeOptions, DownloadOption, OutputOption, QuietOption):
    """Settings of `noria editing train`."""


@dataclass(frozen=True)
class TrainResult:
    """The files and the outcome of a training.

    Attributes:
        folder: folder of the run.
        planner: folder of the planner.
        report: page of the run.
        steps: steps made in all.
        renders: calls of the editor.
        frozen: whether the editor's digest stayed the same; None where the editor is elsewhere.
    """

    folder: Path
    planner: Path
    report: Path
    steps: int
    renders: int
    frozen: bool | None


@make_command(TrainJobConfig, extra="editing", needs=("torch", "transformers"))
def command(config: TrainJobConfig) -> None:
    """Train a planner over a frozen editor; the same command resumes a run that was stopped.

    Each task has a checklist: its items are answered by their verifiers, or by the judge.
    """
    result = run(config, Progress(quiet=config.quiet))
    frozen = {True: "unchanged", False: "CHANGED", None: "elsewhere, not hashed"}[result.frozen]
    click.echo(f"run      {result.folder}   {result.steps:,} steps, {result.renders:,} calls of the editor")
    click.echo(f"editor   {frozen}")
    click.echo(f"planner  {result.planner}\nreport   {result.report}")


def run(
    job: TrainJobConfig,
    progress: Progress,
    *,
    judges: AtomicJudges | None = None,
    credit: TokenCredit | None = None,
) -> TrainResult:
    """Train, or resume a training, and write the planner and the page.

    Args:
        job: settings.
        progress: where the training reports its progress.
        judges: judges in the place of those that the settings name.
        credit: shares advantages out to tokens; each token has the whole of its output by default.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        CoverageError: too many verdicts were invalid, or too many renders failed.
        CheckError: the editor changed.
        DivergenceError: the run blew up.
    """
    settings, folder = named_run(
        "editing",
        job.part(TrainRunConfig),
        needed={"model": "a model folder or a hub id", "data": "a file of tasks with checklists"},
        output=job.output,
        label=lambda c: f"{Path(str(c.model)).name or 'planner'}-{c.rule}",
    )
    check_run_folder(folder)
    tasks, digest = read_checked(Path(str(job.data)))
    with asyncio.Runner() as runner, opened_rewards(job, runner, judges) as environment:
        return _train(job, settings, folder, tasks, digest, environment, runner, progress, credit)


def _train(
    job: TrainJobConfig,
    settings: TrainRunConfig,
    folder: Path,
    tasks: Sequence[tuple[Task, Scene]],
    digest: str,
    environment: RewardEnvironment,
    runner: asyncio.Runner,
    progress: Progress,
    credit: TokenCredit | None,
) -> TrainResult:
    from noria.core.files import write_atomic
    from noria.core.runs.checkpoints import fingerprint
    from noria.core.runs.run import Run, save_settings, settled
    from noria.core.training.loop import training
    from noria.editing.planner.checks import check_frozen, check_sees, editor_digest
    from noria.editing.planner.loading import open_policy, save_policy
    from noria.editing.planner.policy import Request
    from noria.editing.planner.rewarding import EnvironmentRewarder, RolloutLog
    from noria.editing.planner.trainer import PlannerTrainer
    from noria.editing.planner.weights import merged

    policy = open_policy(str(job.model), allow_download=job.allow_download)
    requests = [Request(scene.images, task.instruction) for task, scene in tasks]
    difference = check_sees(policy, requests[0])
    inputs = {"model": (str(job.model), fingerprint(policy.model)), "data": (str(job.data), digest)}
    editor = environment.renderer.editor
    identity = settled(folder, settings.model_dump(mode="json", exclude={"steps"}), inputs)
    with progress, Run.open(folder, config=identity | {"editor": editor.name}) as record:
        save_settings(folder, settings)
        log = RolloutLog(folder / "rollouts")
        rewarder = EnvironmentRewarder(environment, runner, tasks, log)
        trainer = PlannerTrainer(policy, requests, rewarder, job.part(GrpoSettings), credit=credit)
        log.step = max(0, _step_of(record))
        progress.say(f"{len(tasks):,} tasks; another picture moves a log-probability by {difference:.2g}")
        before = editor_digest(editor)
        with training(record, progress, job.steps, page=write_run_page) as task:
            trainer.train(record, on_step=watching(task, "r_cog", "r_vis"))
        after = editor_digest(editor)
        write_atomic(
            folder / EDITOR, json.dumps({"before": before, "after": after, "name": editor.name}) + "\n"
        )
        check_frozen(before, after)
        planner = save_policy(policy, folder / PLANNER, merged(policy))
        frozen = None if before is None else before == after
        return TrainResult(
            folder, planner, write_run_page(folder), trainer.state.step, trainer.renders, frozen
        )


def _step_of(record: object) -> int:
    from noria.core.runs.run import Run, whole_checkpoint

    assert isinstance(record, Run)
    return whole_checkpoint(record.folder) or 0


def read_checked(path: Path) -> tuple[list[tuple[Task, Scene]], str]:
    """Tasks of a file with their pictures, and a digest of what they say.

    Raises:
        DataError: a task has no checklist.
    """
    from noria.editing.data.pictures import open_scene
    from noria.editing.data.tasks import image_paths, read_tasks

    found, digest = [], hashlib.sha256()
    for task in read_tasks(path):
        if not len(task.checklist):
            raise DataError(
                "no checklist to reward by",
                where=f"{path}, task {task.id!r}",
                mend="write one: noria editing checklist",
            )
        scene = open_scene(image_paths(task, path.parent))
        found.append((task, scene))
        digest.update(repr((scene.digests, task.instruction, task.checklist.digest)).encode())
    return found, digest.hexdigest()[:16]


@contextlib.contextmanager
def opened_rewards(
    job: TrainJobConfig,
    runner: asyncio.Runner,
    judges: AtomicJudges | None = None,
    settings: EnvironmentSettings | None = None,
) -> Iterator[RewardEnvironment]:
    """The reward environment of a training, opened and closed on the runner's loop.

    Args:
        job: settings of the training, which name its editor.
        runner: event loop of the environment.
        judges: judges in the place of those that the settings name.
        settings: bounds of the environment; those of the training by default.

    Raises:
        ConfigError: no editor is named, or two.
    """
    from noria.editing.environment.judges import AtomicJudges
    from noria.editing.environment.rendering import Renderer
    from noria.editing.environment.rewarding import EnvironmentSettings, RewardEnvironment

    settings = settings or EnvironmentSettings(in_flight=job.in_flight, gate=job.gate)
    stack = contextlib.AsyncExitStack()

    async def opened() -> RewardEnvironment:
        if job.world:
            if job.editor_url or job.pipeline:
                raise ConfigError("an editor beside the world's", where="--world", mend="choose one")
            from noria.editing.world.editor import AsyncWorldEditor

            renderer = Renderer(AsyncWorldEditor())
        else:
            renderer = await stack.enter_async_context(opened_renderer(job))
        own = judges or await stack.enter_async_context(opened_judges(job))
        return RewardEnvironment(renderer, own or AtomicJudges(_NoJudge(), _NoJudge()), settings)

    try:
        yield runner.run(opened())
    finally:
        runner.run(stack.aclose())


class _NoJudge:
    """Stands where verifiers answer every item; an item without a verifier has no verdict."""

    name = "no judge"

    async def verdicts(self, checklist: Checklist, subject: Sequence[Part]) -> list[Verdict]:
        """Refuse to judge an item that no verifier answers.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("items without a verifier need a judge", where="--judge-url", mend="give one")


def _page(run: RunRecord) -> RunPage:
    config = run.config
    intro = (
        f"A planner from {config.get('model')}, trained over the editor {config.get('editor')} by the rule "
        f"{config.get('rule')}: {run.steps:,} steps of {config.get('prompts')} prompts."
    )
    groups = {
        "Rewards": {"r_cog": "plan", "r_vis": "picture"},
        "Calls of the editor": {"renders": "renders"},
        "Groups without a difference": {"flat": "share"},
        "Entropy of a token": {"entropy": "nats"},
    }
    return RunPage(
        f"planner by {config.get('rule')}", intro, [("While training", training_curves(run, groups))]
    )


write_run_page = run_page("editing", _page)
"""Write `report.html` of a training by GRPO."""
