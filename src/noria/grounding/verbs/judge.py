"""`noria grounding judge`: the reasons of a run, judged in its folder."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError, DataError, RunError
from noria.core.files import inside, lock, write_atomic
from noria.core.progress import Progress, Task
from noria.grounding.corpus.types import Rubric
from noria.grounding.scoring.config import LevelSettings
from noria.grounding.verbs.options import BudgetOption, CacheOption
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, QuietOption, ServerOptions, refuse_given

if TYPE_CHECKING:
    from noria.core.chat import ChatServer
    from noria.grounding.asking.store import SampleStore
    from noria.grounding.judging.cases import Case


class JudgeConfig(LevelSettings, ServerOptions, BudgetOption, CacheOption, JsonOption, QuietOption):
    """Settings of `noria grounding judge`."""

    source: Annotated[Path, Argument("RUN")] = Field(description="Run folder whose reasons are judged.")
    data: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of the annotations, if it moved."
    )
    reasoning_tags: tuple[str, ...] = Field(
        (),
        description="Names of tags around reasoning in the run's replies (default: the run's own setting).",
    )
    rubric: Rubric = Field(
        "atomic", description="Yes/no items, the paper's four grades, or rules without a model."
    )
    judges: int = Field(1, ge=1, description="Number of draws of the judge model.")
    quorum: int | None = Field(
        None, ge=1, description="Valid verdicts that an item needs (default: more than half)."
    )
    temperature: float | None = Field(
        None, ge=0, description="Temperature of the judges (default: 0 for one draw, .7 for several)."
    )

    @property
    def sampling(self) -> float:
        """The judges' temperature; at 0 several draws would be the same one again."""
        return self.temperature if self.temperature is not None else 0.7 if self.judges > 1 else 0.0


@make_command(JudgeConfig, extra="grounding")
def command(config: JudgeConfig) -> int:
    """Judge the rationales of a run; what is judged already is kept."""
    result = run(config, Progress(quiet=config.quiet))
    code = 0 if result["judged"] else 1
    if config.as_json:
        click.echo(json.dumps(result, indent=2))
        return code
    states = "  ".join(f"{status} {n}" for status, n in sorted(result["counts"].items()))
    click.echo(f"{result['cases']} rationales  {states}")
    if result["judged"] < result["cases"]:
        told = f"{result['judged']} of {result['cases']} rationales have a verdict of {result['quorum']} judges or more"
        click.echo(f"noria: warning: {told}", err=True)
    for what, alpha in result["agreement"].items():
        click.echo(f"agreement on {what}: {'undefined' if alpha is None else f'{alpha:.3f}'}")
    for name in result["same_family"]:
        click.echo(f"noria: warning: {name} judges a model of its own family", err=True)
    click.echo(f"judgement  {result['folder']}")
    return code


def run(config: JudgeConfig, progress: Progress) -> dict[str, Any]:
    """Judge the rationales of a run, in `judge-NAME` of its folder.

    Returns:
        {folder, cases, judged, quorum, agreement, counts, same_family}; `judged` is the number of rationales with a
        verdict.

    Raises:
        ConfigError: no judge, a run of another kind, or settings that do not go together.
        DataError: the run has no rationale.
        ModelError: none of the first judgements can be read.
        RunError: the folder holds a judgement under other settings.
    """
    from noria.grounding.asking.store import SampleStore
    from noria.grounding.corpus.files import load_corpus
    from noria.grounding.judging.cases import cases_of
    from noria.grounding.judging.judge import VERSION, same_family, sample_id
    from noria.grounding.results.sources import open_source

    server = None
    if config.rubric == "rules":
        unused = (*ServerOptions.model_fields, "budget", "cache", "judges", "quorum", "temperature")
        refuse_given(config, *unused, because="rules need no model, and judge once")
    else:
        server = config.server()
    if config.quorum is not None and config.quorum > config.judges:
        mend = "give --judges as many, or a smaller quorum"
        raise ConfigError(f"no item can have {config.quorum} verdicts", where="--quorum", mend=mend)
    source = open_source(config.source, data=config.data, judge="", tags=config.reasoning_tags)
    if not source.samples:
        mend = "give a run folder"
        raise ConfigError("a file of predictions cannot be judged", where=str(config.source), mend=mend)
    cases = cases_of(load_corpus(source.data), source.sets[0], config.bins, config.polarity)
    if not cases:
        mend = "judge a run that asked for reasons"
        raise DataError("the run holds no rationale to judge", where=str(config.source), mend=mend)
    if server is None:
        label, names = "rules", ["rules"]
    else:
        label = f"{config.rubric}-{server.model.rpartition('/')[2]}"
        names = [server.model, *(f"{server.model}#{k}" for k in range(1, config.judges))]
    folder = inside(config.source, f"judge-{label}")
    with lock(folder), SampleStore(folder) as store, progress:
        _settle(folder, config, names, VERSION)
        wanted = {sample_id(case, name) for case in cases for name in names}
        before = sum(status != "error" for name, status in store.statuses().items() if name in wanted)
        task = progress.task("judging", total=len(wanted), start=before)
        asyncio.run(_judge(config, cases, server, names, store, task))
        task.done()
        counts = Counter(status for name, status in store.statuses().items() if name in wanted)
    judged = open_source(config.source, data=config.data, judge=folder.name, tags=config.reasoning_tags)
    return {
        "folder": str(config.source / folder.name),
        "cases": len(cases),
        "judged": judged.verdicts,
        "quorum": judged.judgement["quorum"],
        "counts": dict(counts),
        "agreement": dict(judged.agreement),
        "same_family": [name for name in names if same_family(name, source.settings.get("model", ""))],
    }


async def _judge(
    config: JudgeConfig,
    cases: Sequence[Case],
    server: ChatServer | None,
    names: Sequence[str],
    store: SampleStore,
    task: Task,
) -> None:
    """Have every draw of the model, or the rules, judge every case."""
    from noria.core.chat import ChatClient
    from noria.grounding.judging.judge import Seat, judge_all

    async def judge(seats: Sequence[Seat], in_flight: int) -> None:
        await judge_all(
            cases,
            seats,
            config.rubric,
            store,
            in_flight=in_flight,
            on_sample=lambda sample: task.advance(),
        )

    if server is None:
        await judge([Seat("rules")], 1)
        return
    async with ChatClient(server, cache=config.replies(), budget=config.remaining(store.spent())) as client:
        seats = [Seat(name, client, k, config.sampling) for k, name in enumerate(names)]
        await judge(seats, server.in_flight)


def _settle(folder: Path, config: JudgeConfig, names: Sequence[str], version: str) -> None:
    """Write the judgement's settings.

    Raises:
        RunError: an earlier judgement in the folder was made under others.
    """
    from noria.grounding.results.sources import read_judgement

    fixed = {
        "rubric": config.rubric,
        "bins": config.bins,
        "polarity": config.polarity,
        "temperature": config.sampling,
        "prompts": version,
    }
    earlier = read_judgement(folder)
    changed = [name for name, value in fixed.items() if earlier and earlier.get(name) != value]
    if changed:
        raise RunError(
            f"the judgement in this folder has another {', '.join(changed)}",
            where=str(folder),
            mend="remove the folder to judge anew",
        )
    settings = fixed | {"judges": list(names), "quorum": config.quorum or len(names) // 2 + 1}
    write_atomic(folder / "judge.json", json.dumps(settings, indent=1) + "\n")
