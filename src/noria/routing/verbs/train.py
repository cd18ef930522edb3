"""`noria routing train`: a policy trained by calibrated rewards, or a baseline fitted, on a replay table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import Field

from noria.core.errors import ConfigError
from noria.core.models.config import DownloadOption
from noria.core.progress import Progress
from noria.core.runs.outputs import named_run, run_folder
from noria.routing.config import NetworkTraining, TradeOption, WriterTraining
from noria.routing.verbs.options import cell, score_line
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.routing.routers.router import Router
    from noria.routing.routers.scores import TrainResult


class TrainConfig(NetworkTraining, WriterTraining, TradeOption, DownloadOption, OutputOption, QuietOption):
    """Settings of `noria routing train`: those of both policies, and how the training is run.

    A setting that is not given has the default of the chosen policy.
    """

    trade: float | None = Field(
        None,
        ge=0,
        description="Quality by which the dearest route of the router must be better, of the network a difference of "
        "probabilities (default: 0). Training does not know it; the router is judged and saved with it.",
    )

    def training(self) -> NetworkTraining | WriterTraining:
        """The settings of the chosen policy.

        Raises:
            ConfigError: a setting belongs to the other policy.
        """
        chosen, other = (NetworkTraining, WriterTraining)[:: -1 if self.policy == "writer" else 1]
        foreign = other.model_fields.keys() - chosen.model_fields.keys()
        if chosen is WriterTraining:
            foreign |= TradeOption.model_fields.keys()
        wrong = sorted(foreign & self.model_fields_set)
        if wrong:
            raise ConfigError(
                f"it has no setting {wrong[0]!r}",
                where=f"--policy {self.policy}",
                mend=f"leave it out, or give --policy {other.model_fields['policy'].default}",
            )
        settings = self.model_fields_set & chosen.model_fields.keys()
        return chosen.model_validate({name: getattr(self, name) for name in settings})


@make_command(TrainConfig, extra="routing")
def command(config: TrainConfig) -> None:
    """Train a router; the same command resumes a run that was stopped."""
    if config.policy not in ("network", "writer"):
        folder, router = fit(config)
        click.echo(f"router  {folder}   {router.kind}, {len(router.routes)} routes")
        return
    result = run(config, Progress(quiet=config.quiet))
    click.echo(f"run     {result.folder}   {result.step:,} steps")
    click.echo(f"held    {score_line(result.score)}")
    beside = ", ".join(f"{name} {cell(score.macro)}" for name, score in result.baselines.items())
    click.echo(f"beside  {beside}   (macro accuracy on the same questions)")
    click.echo(f"report  {result.report}")


def run(job: TrainConfig, progress: Progress) -> TrainResult:
    """Train a policy, or resume its training.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
    """
    config, folder = resolve(job)
    if isinstance(config, WriterTraining):
        from noria.routing.writer.lm_training import train_writer

        return train_writer(config, folder, allow_download=job.allow_download, progress=progress)
    from noria.routing.routers.learn import train_network

    return train_network(config, folder, trade=job.trade or 0.0, progress=progress)


def resolve(job: TrainConfig) -> tuple[NetworkTraining | WriterTraining, Path]:
    """Settings and run folder of a policy's training.

    Raises:
        ConfigError: the table or the model is missing, or the name leaves its folder.
    """
    needed = {"table": "a replay table"}
    if job.policy == "writer":
        needed["model"] = "a folder or a hub id"
    return named_run(
        "routing",
        job.training(),
        needed=needed,
        output=job.output,
        label=lambda c: f"{Path(str(c.table)).stem or 'table'}-{c.policy}-{c.calibration}",
    )


def fit(config: TrainConfig) -> tuple[Path, Router]:
    """Fit a baseline on a whole table, and save it.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.routing.routers.baselines import fit_router
    from noria.routing.routers.files import save_router
    from noria.routing.tables.imports import import_table

    settings = config.model_fields_set & (
        NetworkTraining.model_fields.keys() | WriterTraining.model_fields.keys()
    )
    if config.table is None or settings - {"table", "policy"}:
        raise ConfigError(
            "a baseline takes --table and --trade only", where="--policy", mend="leave the rest out"
        )
    table = Path(config.table)
    folder = run_folder("routing", config.output, f"{table.stem}-{config.policy}")
    router = fit_router(config.policy, import_table(table), trade=config.trade or 0.0)
    save_router(router, folder)
    return folder, router
