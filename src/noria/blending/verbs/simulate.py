"""`noria blending simulate`: logs of a world whose truth is known, to try the other verbs on."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import Field

from noria.blending.verbs.options import ListOptions
from noria.core.files import check_output, output_path
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, SeedOption

__all__ = ["SimulateConfig", "command"]


class SimulateConfig(ListOptions, SeedOption, OutputOption):
    """Settings of `noria blending simulate`."""

    requests: int = Field(2000, ge=1, le=1_000_000, description="Number of requests.")
    candidates: int = Field(100, ge=2, le=10_000, description="Number of candidates of a request.")
    days: int = Field(3, ge=1, le=365, description="Days that the requests are spread over.")
    overwrite: bool = Field(False, description="Replace an earlier world.")


@make_command(SimulateConfig, extra="blending")
def command(config: SimulateConfig) -> None:
    """Write candidates, exposures, outcomes, a plan file and a snapshot of a simulated feed."""
    from noria.blending.world.simulate import simulate

    folder = output_path(config.output or "runs/blending/simulate")
    check_output(folder, Path(__file__), overwrite=config.overwrite, marks=["plans.yaml"])
    world = simulate(
        folder,
        seed=config.seed,
        requests=config.requests,
        candidates=config.candidates,
        days=config.days,
        size=config.size,
    )
    click.echo(
        f"candidates  {world.candidates:,}\nexposures   {world.exposures:,}\noutcomes    {world.outcomes:,}"
    )
    click.echo(
        f"next        noria blending fit --exposures {folder}/exposures --outcomes {folder}/outcomes "
        f"--plans {folder}/plans.yaml"
    )
