"""The jobs behind the verbs of `noria grounding`: from what a user typed to files on disk.

What a user can get wrong is checked before the first file is written. A job says how far it is on stderr and returns
what there is to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from noria.core.chat import Budget, ChatCache, ChatClient, ChatModel, ChatServer
from noria.core.config import Config
from noria.core.errors import ConfigError, RunError
from noria.core.files import inside, lock, write_atomic
from noria.core.progress import Progress
from noria.core.runs.outputs import check_run_folder, run_folder
from noria.core.runs.run import Run, settled
from noria.grounding.asking.media import Cinema, MediaSettings
from noria.grounding.asking.prompts import VERSION
from noria.grounding.asking.protocols import Control, Protocol, plan, strangers
from noria.grounding.asking.runner import Asking, run_plan
from noria.grounding.asking.store import Sample, SampleStore
from noria.grounding.audit.adversary import Blind
from noria.grounding.audit.findings import audit as run_audit
from noria.grounding.audit.findings import clean_subset
from noria.grounding.building.builder import BuildSettings, Built, read_clips
from noria.grounding.building.builder import build as run_build
from noria.grounding.corpus.checks import check, statistics
from noria.grounding.corpus.files import load_corpus, load_keys, save_corpus
from noria.grounding.corpus.records import Corpus, Keys
from noria.grounding.corpus.types import Bins, Polarity
from noria.grounding.judging.cases import Rubric, cases_of
from noria.grounding.judging.judge import VERSION as JUDGED_BY
from noria.grounding.judging.judge import Seat, judge_all, same_family, sample_id
from noria.grounding.scoring.comparing import compare as compare_two
from noria.grounding.scoring.comparing import max_t, mcnemar, rank_intervals
from noria.grounding.scoring.evaluation import ScoreSettings, evaluate, scored
from noria.grounding.scoring.intervals import bootstrap, cluster_weights
from noria.grounding.scoring.official import read_lines, read_truth, score_official
from noria.grounding.scoring.predictions import save_predictions
from noria.grounding.scoring.rates import averaged, measures, passes, rates
from noria.grounding.scoring.views import rank_gap
from noria.grounding.sources import Source, corpus_digest, open_source, read_judgement, read_subset
from noria.grounding.synth.world import Knobs

__all__ = [
    "RunConfig",
    "audit",
    "build",
    "compare",
    "export",
    "judge",
    "official",
    "report",
    "run",
    "score",
    "synth",
    "validate",
]


Kind: TypeAlias = Literal["official", "lmms-eval", "inspect"]


class Hugging(Config):
    """A model in this process, from Hugging Face files.

    Attributes:
        model: folder or hub id.
        dtype, device: of the weights.
        allow_download: whether a hub id may be fetched.
        trust_remote_code: whether code that comes with the model may run.
    """

    model: str
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str | None = None
    allow_download: bool = False
    trust_remote_code: bool = False


class RunConfig(Config):
    """A run, whole.

    Attributes:
        data: folder of the annotations.
        videos: folder of the clips.
        server: who answers; or
        hugging: a model here.
        protocol, control, orders, conversation: what is asked and shown.
        media: how clips are sent.
        temperature, max_tokens, seed, send_seed, json_mode, fallback: of the requests.
        budget: most that it may cost, in the currency of the server's prices.
        cache: folder of kept answers, shared by runs.
    """

    data: Path
    videos: Path | None = None
    server: ChatServer | None = None
    hugging: Hugging | None = None
    protocol: Protocol = "staged"
    control: Control = "none"
    orders: int = 6
    conversation: bool = False
    media: MediaSettings = MediaSettings()
    temperature: float | None = 0.0
    max_tokens: int = 4096
    seed: int = 0
    send_seed: bool = False
    json_mode: bool = False
    fallback: bool = True
    budget: float | None = None
    cache: Path | None = None

    @property
    def model(self) -> str:
        """The name of whoever answers.

        Raises:
            ConfigError: nobody or two are named.
        """
        if (self.server is None) == (self.hugging is None):
            raise ConfigError("name one who answers", where="run", mend="give --url and --model, or --hf")
        return self.server.model if self.server is not None else self.hugging.model  # type: ignore[union-attr]


# -- data -------------------------------------------------------------------------------------------------------------


def validate(data: Path, *, bins: Bins = "paper", polarity: Polarity = "as_released") -> dict[str, Any]:
    """Check a folder of annotations: {statistics, problems, grave}.

    Raises:
        DataError: a file cannot be read as a record.
    """
    corpus = load_corpus(data)
    problems = check(corpus)
    return {
        "statistics": statistics(corpus, bins, polarity),
        "problems": [vars(problem) for problem in problems],
        "grave": sum(problem.grave for problem in problems),
    }


def synth(output: Path, count: int, knobs: Knobs, seed: int, *, quiet: bool = False) -> Corpus:
    """Write SynthOCEAN: `annotations/` and `videos/`. Started again, it makes only the clips that are not there.

    Raises:
        RunError: the folder holds another world, or the disk refuses.
    """
    from noria.grounding.synth.drawing import render
    from noria.grounding.synth.world import make_corpus

    scenes, corpus = make_corpus(count, knobs, seed=seed)
    told = json.dumps({"count": count, "seed": seed, "knobs": knobs.model_dump()}, indent=1)
    with lock(output), Progress(quiet=quiet) as progress:
        note = output / "world.json"
        if note.exists() and note.read_text() != told:
            raise RunError("the folder holds another world", where=str(output), mend="give another --output")
        write_atomic(note, told)
        save_corpus(corpus, output / "annotations")
        task = progress.task("clips", total=count)
        for scene in scenes:
            path = inside(output / "videos", scene.video_id)
            if not path.exists():
                render(scene, knobs, path)
            task.advance()
        task.done()
    return corpus


def build(
    clips: Path,
    videos: Path | None,
    server: ChatServer,
    output: Path,
    settings: BuildSettings,
    media: MediaSettings,
    *,
    budget: float | None = None,
    quiet: bool = False,
) -> Built:
    """Build a benchmark of one's own clips into `output/annotations`; replies are kept in the folder.

    Records that an earlier build wrote and this one does not, because a clip was taken out or now fails, are removed.

    Raises:
        DataError: the clips' file is faulty, or someone in it did not consent.
    """
    records = read_clips(clips)
    cinema = Cinema({record.video_id: record for record in records}, videos, media)

    async def go(store: SampleStore) -> Built:
        purse = None if budget is None else Budget(budget, spent=store.spent())
        async with ChatClient(server, budget=purse) as client:

            def told(step: str) -> None:
                task.advance(note=step)

            at_once = server.in_flight
            return await run_build(records, client, cinema, store, settings, in_flight=at_once, on_step=told)

    with lock(output), Progress(quiet=quiet) as progress, SampleStore(output) as store:
        task = progress.task("writing", total=None)
        built = asyncio.run(go(store))
        task.done()
        home, note = output / "annotations", output / "build.json"
        save_corpus(built.corpus, home)
        for name in set(_written(note)) - set(built.corpus.ids):
            inside(home, f"{name}.json").unlink(missing_ok=True)
        outcome = {
            "videos": built.corpus.ids,
            "dropped": built.dropped,
            "rounds": built.rounds,
            "rewritten": built.rewritten,
        }
        write_atomic(note, json.dumps(outcome, indent=1, ensure_ascii=False))
    return built


def _written(note: Path) -> list[str]:
    """Ids of the records that the last build wrote."""
    try:
        return [str(name) for name in json.loads(note.read_bytes())["videos"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


# -- runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """A run's outcome: its folder, how many samples are in each state, and what had to be mended first."""

    folder: Path
    counts: Mapping[str, int]
    mended: Sequence[str]


def run(
    config: RunConfig, *, output: str | None = None, quiet: bool = False, retry_errors: bool = True
) -> Ran:
    """Ask a model a whole corpus. The same command again goes on with what is left.

    Raises:
        ConfigError: settings that do not go together.
        RunError: the folder holds another run.
        ModelError: the server answers nothing.
    """
    model = config.model
    corpus = load_corpus(config.data)
    chains = plan(
        corpus, config.protocol, config.control, orders=config.orders, conversation=config.conversation
    )
    if config.videos is None and config.control not in ("blind", "transcript", "oracle"):
        mend = "give it, or --control transcript, blind or oracle"
        raise ConfigError("no folder of clips", where="--videos", mend=mend)
    slug = "".join(c if c.isalnum() or c in "-." else "-" for c in model.rstrip("/").rpartition("/")[2])
    folder = run_folder("grounding", output, f"{slug}-{config.protocol}-{config.control}")
    check_run_folder(folder)
    fixed = settled(folder, _fixed(config, model), {"data": (str(config.data), corpus_digest(config.data))})
    cinema = Cinema(
        {record.video_id: record for record in corpus},
        config.videos,
        config.media,
        strangers=strangers(corpus, config.seed) if config.control == "shuffled" else None,
    )
    asking = Asking(
        control=config.control,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        seed=config.seed,
        send_seed=config.send_seed,
        json_mode=config.json_mode,
        fallback=config.fallback,
        retry_errors=retry_errors,
    )
    total = sum(len(chain) for chain in chains)
    with Run.open(folder, config=fixed), SampleStore(folder) as store, Progress(quiet=quiet) as progress:
        for words in store.mended:
            progress.say(words)
        task = progress.task("samples", total=total, start=len(store.statuses()))

        def told(sample: Sample) -> None:
            task.advance(
                note="" if sample.status == "ok" else f"{sample.id}: {sample.status} {sample.error}".rstrip()
            )

        async def go() -> Mapping[str, int]:
            async with _answering(config, store.spent()) as (answering, in_flight):
                return await run_plan(
                    chains, corpus, answering, cinema, store, asking, in_flight=in_flight, on_sample=told
                )

        counts = asyncio.run(go())
        task.done(note=", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
        mended = list(store.mended)
    return Ran(folder, dict(counts), mended)


def _fixed(config: RunConfig, model: str) -> dict[str, Any]:
    """What decides the answers, and so may not change in a run."""
    loose = {"server", "hugging", "budget", "cache", "videos", "data"}
    values = config.model_dump(mode="json", exclude=loose)
    values["model"] = model
    values["url"] = config.server.url if config.server else "here"
    values["data"] = str(config.data)
    values["prompts"] = VERSION
    return values


@contextlib.asynccontextmanager
async def _answering(config: RunConfig, spent: float) -> AsyncIterator[tuple[ChatModel, int]]:
    """Whoever answers, and how many requests may be under way."""
    if config.hugging is not None:
        from noria.grounding.integrations.hugging import HuggingModel

        here = config.hugging
        yield (
            HuggingModel.open(
                here.model,
                dtype=here.dtype,
                device=here.device,
                allow_download=here.allow_download,
                trust_remote_code=here.trust_remote_code,
            ),
            1,
        )
        return
    assert config.server is not None
    budget = None if config.budget is None else Budget(config.budget, spent=spent)
    cache = None if config.cache is None else ChatCache(config.cache)
    async with ChatClient(config.server, cache=cache, budget=budget) as client:
        yield client, config.server.in_flight


def judge(
    path: Path,
    servers: Sequence[ChatServer],
    kind: Rubric,
    *,
    judges: int = 1,
    quorum: int | None = None,
    temperature: float | None = None,
    bins: Bins = "paper",
    polarity: Polarity = "as_released",
    data: Path | None = None,
    budget: float | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Judge the rationales of a run, in `judge-NAME` of its folder.

    Args:
        path: the run.
        servers: judge models; each sits `judges` times. None for `rules`.
        kind: of rubric.
        judges: draws of each model.
        quorum: valid verdicts an item needs; more than half by default.
        temperature: of the judges; by default 0 for one draw, .7 for several, which at 0 would be one said again.
        bins, polarity: of the true levels; those that the answers are scored by.
        data: folder of the annotations, if it moved.
        budget: most that it may cost; it needs the servers' prices.
        cache: folder of kept answers.
        quiet: say nothing.

    Returns:
        {folder, cases, agreement, counts, same_family}.

    Raises:
        ConfigError: no judge, or a run of another kind.
        RunError: the folder holds a judgement under other settings.
    """
    if (kind == "rules") == bool(servers):
        mend = "give --url and --model, or --rubric rules"
        raise ConfigError("rules need no server, models do", where="judge", mend=mend)
    source = open_source(path, data=data, judge="")
    if not source.samples:
        raise ConfigError("a file of predictions cannot be judged", where=str(path), mend="give a run folder")
    cases = cases_of(load_corpus(source.data), source.sets[0], bins, polarity)
    heat = temperature if temperature is not None else 0.7 if judges > 1 else 0.0
    names = [f"{server.model}#{k}" if k else server.model for server in servers for k in range(judges)] or [
        "rules"
    ]
    if len(set(names)) < len(names):
        raise ConfigError("a judge sits twice", where="judge", mend="name each model once, and give --judges")
    label = "-".join([kind, *(server.model.rpartition("/")[2] for server in servers)])
    folder = inside(path, f"judge-{label}")
    fixed = {"rubric": kind, "bins": bins, "polarity": polarity, "temperature": heat, "prompts": JUDGED_BY}
    with lock(folder), SampleStore(folder) as store, Progress(quiet=quiet) as progress:
        earlier = read_judgement(folder)
        changed = [name for name, value in fixed.items() if earlier and earlier.get(name) != value]
        if changed:
            raise RunError(
                f"the judgement in this folder has another {', '.join(changed)}",
                where=str(folder),
                mend="remove the folder to judge anew",
            )
        settings = fixed | {"judges": names, "quorum": quorum or len(names) // 2 + 1}
        write_atomic(folder / "judge.json", json.dumps(settings, indent=1) + "\n")
        wanted = {sample_id(case, name) for case in cases for name in names}
        done = sum(status != "error" for name, status in store.statuses().items() if name in wanted)
        task = progress.task("judging", total=len(wanted), start=done)

        async def go() -> None:
            purse = None if budget is None else Budget(budget, spent=store.spent())
            kept = None if cache is None else ChatCache(cache)
            async with contextlib.AsyncExitStack() as stack:
                seats = [] if servers else [Seat("rules")]
                for server in servers:  # one client each, so that its limits hold for all its draws together
                    client = await stack.enter_async_context(ChatClient(server, cache=kept, budget=purse))
                    seats += [
                        Seat(f"{server.model}#{k}" if k else server.model, client, k, heat)
                        for k in range(judges)
                    ]
                in_flight = sum(server.in_flight for server in servers) or 1
                await judge_all(
                    cases, seats, kind, store, in_flight=in_flight, on_sample=lambda s: task.advance()
                )

        asyncio.run(go())
        task.done()
        counts = Counter(status for name, status in store.statuses().items() if name in wanted)
    judged = open_source(path, data=data, judge=folder.name)
    return {
        "folder": str(path / folder.name),
        "cases": len(cases),
        "counts": dict(counts),
        "agreement": dict(judged.agreement),
        "same_family": [name for name in names if same_family(name, source.settings.get("model", ""))],
    }


# -- scores -----------------------------------------------------------------------------------------------------------


def score(
    source: Source, settings: ScoreSettings, *, subset: Path | None = None, write: Path | None = None
) -> dict[str, Any]:
    """All figures of a model; written to `write` if it is given.

    Raises:
        DataError: the subset's file is none.
    """
    keys = load_keys(source.data)
    part = None if subset is None else read_subset(subset)
    found: dict[str, Any] = {"name": source.name, "source": str(source.path)}
    found |= evaluate(source.scored(keys, settings, part), settings)
    found["judged"] = source.judged
    found["agreement"] = dict(source.agreement)
    found["subset"] = None if subset is None else str(subset)
    if source.samples:
        states = dict(Counter(sample.status for sample in source.samples))
        rungs = Counter(str(sample.rung) for sample in source.samples)
        known = [s.cost for s in source.samples if s.cost is not None]
        cost = sum(known) if known else None
        found["samples"] = {"states": states, "never_asked": source.never, "rungs": rungs, "cost": cost}
        found["run"] = dict(source.settings)
    if write is not None:
        write_atomic(write, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return found


def official(source: Source, thresholds: tuple[float, float, float] = (0.5, 0.7, 0.5)) -> dict[str, Any]:
    """The released scorer's summary.

    Raises:
        DataError: an answer that would end it.
    """
    import tempfile

    home = load_keys(source.data).folder
    assert home is not None
    if source.path.is_file():
        return score_official(read_truth(home), read_lines(source.path), thresholds=thresholds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.jsonl"
        save_predictions(path, source.sets[0].values())
        return score_official(read_truth(home), read_lines(path), thresholds=thresholds)


def compare(sources: Sequence[Source], settings: ScoreSettings) -> dict[str, Any]:
    """Every pair of models, and all of them together.

    Returns:
        {models, pairs: [{first, second, rows, mcnemar}], family: {figure: {pair: adjusted p}}, ranks, rgm}. Figures are
        means over orders of options; McNemar's tests, which count, are of the first order.

    Raises:
        ConfigError: fewer than two, or models asked about different videos.
    """
    if len(sources) < 2:
        raise ConfigError("a comparison needs two models", where="compare")
    keys = load_keys(sources[0].data)
    for source in sources[1:]:
        if load_keys(source.data).ids != keys.ids:
            raise ConfigError("the models were asked about different videos", where=str(source.path))
    if len({json.dumps(_asked(source, keys)) for source in sources}) > 1:
        raise ConfigError("the models were asked different questions", where="compare")
    arrays = [source.scored(keys, settings) for source in sources]
    truth, theta = arrays[0].truth, settings.thresholds
    weights = cluster_weights(truth.sources, settings.draws, np.random.default_rng(settings.seed))
    passed = [passes(truth, one.marks[0], theta) for one in arrays]
    names = [source.name for source in sources]
    pairs = []
    for (a, one), (b, two) in itertools.combinations(enumerate(arrays), 2):
        rows = compare_two(truth, one.marks, two.marks, weights, theta=theta, level=settings.level)
        tests = {what: mcnemar(passed[a], passed[b], what) for what in ("rating", "reasoning", "grounding")}
        pairs.append(
            {
                "first": names[a],
                "second": names[b],
                "rows": [vars(row) for row in rows],
                "mcnemar": {
                    what: {"only_first": x, "only_second": y, "p": p} for what, (x, y, p) in tests.items()
                },
            }
        )
    figures = [
        {
            r.name: r
            for r in averaged([[*measures(truth, m), *rates(passes(truth, m, theta))] for m in one.marks])
        }
        for one in arrays
    ]
    generator = np.random.default_rng(settings.seed)
    shown = [n for n in ("T1", "T3", "HR") if all(f[n].value is not None for f in figures)]
    family = {
        name: {
            f"{names[i]} / {names[j]}": p
            for (i, j), p in max_t(
                [f[name] for f in figures], truth.sources, draws=settings.draws, generator=generator
            ).items()
        }
        for name in shown
    }
    ranks = {}
    for name in (*shown, "PR"):
        ratios = [f[name] for f in figures]
        drawn = bootstrap(ratios, truth.sources, weights)
        whole = drawn[~np.isnan(drawn).any(axis=1)]
        if len(whole):
            ends = rank_intervals(whole, level=settings.level, better=ratios[0].better)
            ranks[name] = dict(zip(names, ends, strict=True))
    values = {n: [f[n].value for f in figures] for n in ("T1", "T2", "T3")}
    complete = all(v is not None for row in values.values() for v in row)
    rgm = (
        dict(zip(names, rank_gap(*([v or 0.0 for v in values[n]] for n in ("T1", "T2", "T3"))), strict=True))
        if complete
        else None
    )
    return {"models": names, "pairs": pairs, "family": family, "ranks": ranks, "rgm": rgm}


def audit(
    data: Path, output: Path, *, blind: bool = True, ladder: bool = False, seed: int = 0, quiet: bool = False
) -> dict[str, Any]:
    """Audit annotations; write `audit.json`, `clean.json` and `audit.html` into `output`.

    Raises:
        DataError: the annotations cannot be read.
    """
    from noria.grounding.audit.adversary import blind_accuracy
    from noria.grounding.verbs.pages import write_audit_page

    corpus = load_corpus(data)
    with Progress(quiet=quiet) as progress:
        task = progress.task("blind classifiers", total=7 if blind else 0)
        # Trained once, for the findings and for the subset.
        found = (
            blind_accuracy(corpus, seed=seed, on_category=lambda c: task.advance(note=c)) if blind else None
        )
        task.done()
    results = run_audit(corpus, blind=found)
    clean = clean_subset(corpus, found)
    results["ladder"] = _ladder(corpus, found) if ladder else None
    write_atomic(output / "audit.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_atomic(output / "clean.json", json.dumps(clean, indent=0) + "\n")
    write_audit_page(output / "audit.html", results)
    return results


def _ladder(corpus: Corpus, blind: Blind | None) -> list[dict[str, Any]]:
    """The scores of every reference reader."""
    from noria.grounding.audit.readers import ladder

    settings = ScoreSettings(bins="official")
    return [
        {"name": name} | evaluate(scored(corpus, [said], settings), settings)
        for name, said in ladder(corpus, blind).items()
    ]


def report(sources: Sequence[Source], settings: ScoreSettings, output: Path) -> dict[str, Any]:
    """Write a page of one model or a board of several, and `report.json` beside it.

    Raises:
        ConfigError: models asked about different videos.
    """
    from noria.grounding.verbs.pages import write_board

    keys = load_keys(sources[0].data)
    weights: np.ndarray[Any, Any] | None = None
    scores = []
    for source in sources:
        if load_keys(source.data).ids != keys.ids:
            raise ConfigError("the models were asked about different videos", where=str(source.path))
        arrays = source.scored(keys, settings)
        if weights is None:
            weights = cluster_weights(
                arrays.truth.sources, settings.draws, np.random.default_rng(settings.seed)
            )
        found = evaluate(arrays, settings, weights=weights)
        scores.append({"name": source.name, "judged": source.judged, "run": dict(source.settings)} | found)
    alike = len(sources) > 1 and len({json.dumps(_asked(source, keys)) for source in sources}) == 1
    together = compare(sources, settings) if alike else None
    results = {"scores": scores, "comparison": together}
    write_atomic(output.with_suffix(".json"), json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_board(output, results)
    return results


def export(
    source: Path,
    kind: Kind,
    output: Path,
    *,
    data: Path | None = None,
    videos: Path | None = None,
    frames: int = 16,
) -> Path:
    """Write a run's answers for the released scorer, or annotations as a task of another harness.

    Raises:
        ConfigError: answers where annotations are meant.
    """
    if kind == "official":
        save_predictions(output, open_source(source, data=data).sets[0].values())
        return output
    corpus = load_corpus(source)
    if kind == "lmms-eval":
        from noria.grounding.integrations.lmms_eval import export_lmms_eval

        return export_lmms_eval(corpus, output, videos)
    from noria.grounding.integrations.inspect_ai import export_inspect

    return export_inspect(corpus, output, videos, frames=frames)


def _asked(source: Source, keys: Keys) -> Any:
    """What a model was asked, in a form that compares; a file of predictions was asked everything."""
    every = {r.video_id: set(range(1, len(r.mcq_questions) + 1)) for r in keys.records}
    asked = every if source.asked is None else source.asked
    return [{video: sorted(numbers) for video, numbers in sorted(asked.items()) if numbers}, source.rated]
