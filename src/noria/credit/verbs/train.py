"""`noria credit train`: GRPO with credit of tokens, in a run folder that resumes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from noria.core.errors import ConfigError
from noria.core.models.config import ModelOptions
from noria.core.pages.charts import Figure, lines, series
from noria.core.pages.report import write_run_report
from noria.core.progress import Progress, Task
from noria.core.runs.outputs import check_run_folder, is_run, named_run
from noria.core.runs.run import Run, read_config, read_metrics, save_settings, settled
from noria.credit.training.config import TrainConfig
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.core.models.loading import LanguageModel
    from noria.credit.training.trainer import StepResult

__all__ = ["TrainJobConfig", "TrainResult", "command", "run", "write_run_page"]


class TrainJobConfig(TrainConfig, ModelOptions, OutputOption, QuietOption):
    """Settings of `noria credit train`: those of the training, and how it is run."""


@dataclass(frozen=True)
class TrainResult:
    """The files and the outcome of a training.

    Attributes:
        folder: the run's.
        report: the run's page.
        model: the policy as `from_pretrained` opens it; None where weights of its kind cannot be written.
        steps: number of steps made in all.
        reward: mean of the last tenth of the steps; None where there were none.
    """

    folder: Path
    report: Path
    model: Path | None
    steps: int
    reward: float | None


@make_command(TrainJobConfig, extra="credit", needs=("torch", "transformers"))
def command(config: TrainJobConfig) -> None:
    """Train a policy by GRPO with credit of tokens; the same command resumes a run that was stopped."""
    result = run(config, Progress(quiet=config.quiet))
    click.echo(f"run     {result.folder}   {result.steps:,} steps")
    if result.reward is not None:
        click.echo(f"reward  {result.reward:.3f} in the last tenth of them")
    click.echo(f"model   {result.model or 'in its checkpoints only: weights of its kind cannot be written'}")
    click.echo(f"report  {result.report}")
    click.echo(
        "next    noria credit train with another --credit or --seed, "
        f"then noria credit compare {result.folder} OTHER"
    )


def run(job: TrainJobConfig, progress: Progress) -> TrainResult:
    """Train a policy, or resume its training, and write its page and the policy.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        DivergenceError: the run blew up.
    """
    config, folder = named_run(
        "credit",
        job.part(TrainConfig),
        needed={
            "model": "a model folder, a hub id, or small",
            "data": "a .jsonl or .parquet file of questions, chains, or gym:FAMILY",
        },
        output=job.output,
        label=lambda c: f"{Path(str(c.model)).stem or 'model'}-{c.credit}-{c.seed}",
    )
    check_run_folder(folder)
    model_name, data = str(config.model), str(config.data)
    if is_run(Path(model_name).expanduser()):
        raise ConfigError("it is a run, not a model", where="--model", mend="give the model folder inside it")

    from noria.core.runs.checkpoints import fingerprint
    from noria.core.training.loop import training
    from noria.credit.loading import open_policy
    from noria.credit.tasks.files import read_questions
    from noria.credit.tasks.questions import digest_of
    from noria.credit.training.trainer import CreditTrainer

    questions = read_questions(data, number=config.questions, seed=config.seed)
    policy = open_policy(model_name, job)
    trainer = CreditTrainer(policy.model, policy.tokenizer, questions, config)
    trainer.credit.check(policy.model)
    inputs = {"model": (model_name, fingerprint(policy.model)), "data": (data, digest_of(questions))}
    identity = settled(folder, config.model_dump(mode="json", exclude={"steps"}), inputs)
    with progress, Run.open(folder, config=identity) as run:
        save_settings(folder, config)
        all_read = Path(data).is_file() and len(questions) == config.questions
        more = ", as many as questions= lets be read" if all_read else ""
        progress.say(f"{len(questions):,} questions{more}")
        with training(run, progress, config.steps, page=write_run_page) as task:
            trainer.train(run, on_step=_watch(progress, task, config.answer))
        written = _written(policy, folder / "model")
        page = write_run_page(folder)
        rewards = [row["reward"] for row in run.metrics()]
    late = rewards[-max(1, len(rewards) // 10) :]
    return TrainResult(folder, page, written, trainer.step, sum(late) / len(late) if late else None)


def _watch(progress: Progress, task: Task, answer: str) -> Callable[[StepResult], None]:
    """Show the reward of every step, and warn once where answers are not found."""
    warned = False

    def watch(result: StepResult) -> None:
        nonlocal warned
        figures = result.figures
        fallback = figures.get("credit/fallback", 0.0)
        if not warned and (figures["answered"] < 0.5 or fallback > 0.5):
            warned = True
            progress.say(
                f"warning: step {result.step}: an answer was found in {figures['answered']:.0%} of the responses "
                f"(answer={answer}), and {fallback:.0%} of those learned from share credit evenly"
            )
        task.at(
            result.step,
            f"reward {figures['reward']:.3f}" + (f", fallback {fallback:.0%}" if fallback else ""),
        )

    return watch


def _written(policy: LanguageModel, folder: Path) -> Path | None:
    """The policy as a folder; None where transformers refuses to write its kind (weights out of a GGUF file)."""
    from noria.core.models.loading import save_language_model

    with contextlib.suppress(ValueError):
        save_language_model(policy.model, policy.tokenizer, folder)
        return folder
    return None


# -- the page ---------------------------------------------------------------------------------------------------------


def write_run_page(folder: Path, *, stopped: str = "") -> Path:
    """Write `report.html` of a training from its settings and metrics.

    Args:
        folder: the run's.
        stopped: why it ended early, if it did.

    Raises:
        RunError: there is no run, or the disk refuses.
        DataError: its log is damaged.
    """
    config, rows = read_config(folder), read_metrics(folder)
    done = max([0, *(int(row["step"]) for row in rows)])
    intro = (
        f"{config.get('model')} trained on {config.get('data')} with the credit {config.get('credit')}: {done:,} steps "
        f"of {config.get('prompts')} × {config.get('group')} rollouts."
    )
    groups = (
        ("Reward", {"reward": "reward", "answered": "has an answer"}),
        (
            "Credit",
            {"credit/mean_weight": "mean weight", "credit/advantage_on_chosen": "advantage on the chosen"},
        ),
        ("Fallback", {"credit/fallback": "share of rollouts"}),
        ("Flow", {"credit/concentration": "concentration", "credit/lost": "question lost"}),
        ("Length of a response", {"length": "tokens"}),
        ("Entropy", {"entropy": "nats a token"}),
        (
            "Seconds of a step",
            {"rollout_seconds": "rollout", "score_seconds": "scoring", "learn_seconds": "learning"},
        ),
    )
    figures = [
        Figure.chart(title, lines(points)) for title, names in groups if (points := series(rows, names))
    ]
    return write_run_report(
        folder,
        "credit",
        str(config.get("credit")),
        [("While training", figures or ["Nothing was logged yet."])],
        intro=intro,
        stopped=stopped,
    )
