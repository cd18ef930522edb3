"""The verbs of `noria blending` around its service: `serve` and `log`."""

from __future__ import annotations

from pathlib import Path

import click

from noria.core.errors import ConfigError, needing
from noria.verbs import PATH, output

__all__ = ["log", "serve"]


@click.command(short_help="Rank requests over HTTP, and learn from what comes of them.")
@click.argument("snapshot", type=PATH, required=False)
@click.option("--state", type=PATH, metavar="FOLDER", help="Folder of the log and of what serves.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="To listen on; beyond loopback it wants a token."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--token-file", type=PATH, metavar="FILE", help="The token (default: the environment's NORIA_TOKEN)."
)
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A name the service is called by.")
@click.option("--config", type=PATH, metavar="FILE", help="YAML file of settings.")
@click.option("--access-log/--no-access-log", default=True, help="A line on stderr for each request.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def serve(
    snapshot: Path | None,
    state: Path | None,
    host: str,
    port: int,
    token_file: Path | None,
    hosts: tuple[str, ...],
    config: Path | None,
    access_log: bool,
    settings: tuple[str, ...],
) -> None:
    """Serve SNAPSHOT, a file that `noria blending fit` writes, and every later one that takes its place.

    Without --state nothing is logged or kept. With it, the service goes on from there when it is started again, and
    SNAPSHOT may be left out. Settings are KEY=VALUE, such as size=30 or nearline.tick=30; they beat the file.
    """
    if snapshot is not None and "=" in str(snapshot):  # the optional argument has taken the first setting
        settings, snapshot = (str(snapshot), *settings), None
    if snapshot is None and state is None:
        raise ConfigError(
            "nothing to serve", where="snapshot", mend="give a snapshot, or --state of an earlier run"
        )
    with needing("serve"):
        from noria.blending.service.config import ServeConfig
        from noria.blending.service.process import serve_feed
        from noria.core.config import load_config

        serve_feed(
            snapshot,
            state,
            load_config(ServeConfig, file=config, overrides=settings),
            host=host,
            port=port,
            token_file=token_file,
            hosts=hosts,
            access_log=access_log,
        )


@click.command(short_help="Write a service's log as Parquet tables.")
@click.argument("state", type=PATH)
@output("The folder to write.", required=True)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
def log(state: Path, output: str, overwrite: bool) -> None:
    """Write exposures, outcomes and sampled candidates of the service in STATE, for fit, attribute and replay."""
    from noria.core.files import output_path

    with needing("serve"):
        from noria.blending.service.journal.exporting import export_log

        done = export_log(state, output_path(output), overwrite=overwrite)
    for name, rows in done.rows.items():
        click.echo(f"{name:<11} {done.folder / f'{name}.parquet'}   {rows:,} rows")
    for why, number in sorted(done.left.items()):
        click.echo(f"left out    {number:,} {why}")
