"""Answers of a model, opened: from a run folder, or from a file of predictions."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import ConfigError, DataError, RunError, needing
from noria.core.files import decoding, read_bytes
from noria.core.runs.run import read_config
from noria.grounding.asking.config import AskSettings
from noria.grounding.asking.protocols import dealt, plan
from noria.grounding.asking.runner import assemble, orders_in, read_samples_of
from noria.grounding.asking.store import Sample, read_samples
from noria.grounding.corpus.files import load_corpus, load_keys
from noria.grounding.corpus.records import Corpus, Keys, each_question
from noria.grounding.corpus.types import Bins, Polarity, Rubric
from noria.grounding.judging.agreement import agreement_of, judged_by
from noria.grounding.judging.cases import cases_of
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.scoring.evaluation import ScoreArrays, scored
from noria.grounding.scoring.predictions import Prediction, load_predictions

with needing("grounding"):
    import msgspec


@dataclass(frozen=True)
class Source:
    """A model's answers.

    Attributes:
        name: name of the model in tables.
        path: run folder or file of predictions.
        data: folder of the annotations.
        sets: predictions by video, one for each order of options.
        asked: {video: numbers asked}; None for all.
        rated: whether ratings were asked for.
        samples: samples of a run; empty for a file.
        never: number of samples of the plan that nobody has asked for yet.
        videos: number of videos of the annotations.
        absent: number of videos without any answer: not in the file, or not asked about yet.
        unknown: number of predictions that are of no video of the annotations.
        settings: settings of a run; empty for a file.
        orders: orders of options, as many as sets; none where options came as they stand.
        judged: name of the judgement that is in the predictions, if any.
        judgement: settings of the judgement; empty where it came with a file.
        rationales, verdicts: number of rationales to judge, and of those that were judged.
        agreement: Krippendorff's alpha of the judges.
    """

    name: str
    path: Path
    data: Path
    sets: tuple[Mapping[str, Prediction], ...]
    asked: Mapping[str, set[int]] | None = None
    rated: bool = True
    samples: tuple[Sample, ...] = ()
    never: int = 0
    videos: int = 0
    absent: int = 0
    unknown: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    orders: Sequence[int] = ()
    judged: str = ""
    judgement: Mapping[str, Any] = field(default_factory=dict)
    rationales: int = 0
    verdicts: int = 0
    agreement: Mapping[str, float | None] = field(default_factory=dict)

    def scored(
        self, keys: Keys, settings: ScoreSettings, subset: Mapping[str, set[int]] | None = None
    ) -> ScoreArrays:
        """The arrays, of the questions in `subset` alone if there is one.

        Raises:
            ConfigError: the reasons were judged by other levels than the answers would be scored by.
            DataError: the subset keeps no question.
        """
        for name, value in (("bins", settings.bins), ("polarity", settings.polarity)):
            if self.judgement and self.judgement.get(name, value) != value:
                raise ConfigError(
                    f"{self.judged} is of {name} {self.judgement[name]}, and these are {value}",
                    where=str(self.path),
                    mend="score by the levels that the reasons were judged by, or judge anew",
                )
        asked = self.asked
        if subset is not None:
            every = keys.numbers
            asked = {v: (self.asked or every).get(v, set()) & subset.get(v, set()) for v in every}
            if not any(asked.values()):
                raise DataError(
                    "the subset keeps none of the questions that were asked",
                    where=str(self.path),
                    mend="give the clean.json of an audit of these annotations that found clean questions",
                )
        stood = [placed(keys, self.settings.get("seed", 0), order) for order in self.orders]
        return scored(keys, self.sets, settings, asked=asked, rated=self.rated, stood=stood)


def placed(keys: Keys, seed: int, order: int) -> NDArray[np.int64]:
    """[q, options] where each option stood when questions were asked in a random order; −1 where there is none.

    Args:
        keys: answer keys that hold the questions.
        seed: seed of the run.
        order: number of the order.
    """
    questions = [(key.video_id, n, len(question.options)) for key, n, question in each_question(keys.records)]
    places = np.full((len(questions), max((n for *_, n in questions), default=0)), -1, dtype=np.int64)
    for row, (video, number, count) in zip(places, questions, strict=True):
        row[dealt(seed, order, video, number, count)] = np.arange(count)
    return places


def open_source(
    path: Path, *, data: Path | None = None, judge: str | None = None, tags: Sequence[str] = ()
) -> Source:
    """Open a run folder or a file of predictions.

    Args:
        path: run folder or file of predictions.
        data: folder of the annotations; a run knows its own.
        judge: which judgement of a run to take; the only one by default, none for "".
        tags: names of reasoning tags in the replies of a run, in the place of the run's own.

    Raises:
        ConfigError: a file, and no annotations; a judgement that is not there, or several and none is named.
        RunError: neither a run nor a file.
        DataError: a file in it cannot be read, or nothing in it is about the annotations.
    """
    if path.is_dir():
        with decoding(path, "a run of noria grounding", error=RunError):
            return _run(path, data, judge, tags)
    if not path.is_file():
        raise RunError("no such run or file", where=str(path))
    if data is None:
        raise ConfigError("a file of predictions needs its annotations", where=str(path), mend="give --data")
    for option, value in (("--judge", judge), ("--reasoning-tags", tags)):
        if value:
            raise ConfigError("it is for run folders, and this is a file", where=option, mend="leave it out")
    predictions = load_predictions(path)
    ids = set(load_keys(data).ids)
    shared = ids & predictions.keys()
    check_shared(shared, ids, predictions, path)
    judged = "in the file" if any(one.judged is not None for one in predictions.values()) else ""
    reasons = [
        (one.judged or {}).get(trait)
        for one in (predictions[name] for name in shared)
        for trait in one.rationales.keys() | (one.judged or {}).keys()
    ]
    return Source(
        path.stem,
        path,
        data,
        (predictions,),
        videos=len(ids),
        absent=len(ids) - len(shared),
        unknown=len(predictions) - len(shared),
        judged=judged,
        rationales=len(reasons),
        verdicts=sum(bool(reason) for reason in reasons),
    )


def check_shared(shared: Collection[str], ids: Collection[str], given: Collection[str], path: Path) -> None:
    """Refuse predictions of which none is about the annotations.

    Raises:
        DataError: none is.
    """
    if not shared:
        raise DataError(
            f"none of its {len(given):,} videos is in the annotations: it has {min(given, default='')!r}, "
            f"they have {min(ids)!r}",
            where=str(path),
            mend="give --data with the annotations that it is about, or mend the ids",
        )


def _settings(folder: Path) -> tuple[dict[str, Any], AskSettings]:
    """The settings of a run as they were stored, and those of its requests.

    Raises:
        RunError: the folder holds no run of ours, or a setting of it is damaged.
    """
    stored = read_config(folder)
    if not {"protocol", "control", "model"} <= set(stored):
        raise RunError("not a run of noria grounding", where=str(folder))
    try:
        asking = AskSettings(**{k: stored[k] for k in AskSettings.model_fields if k in stored})
        if not isinstance(stored["model"], str) or not isinstance(stored.get("data"), str):
            raise ValueError("the names of the model and of the data are texts")
    except ValueError as error:  # pydantic's, too
        what = " ".join(str(error).split())[:200]
        raise RunError(f"its settings are damaged ({what})", where=str(folder / "config.json")) from None
    return stored, asking


def _run(folder: Path, data: Path | None, judge: str | None, tags: Sequence[str]) -> Source:
    settings, asking = _settings(folder)
    if tags:
        asking = asking.model_copy(update={"reasoning_tags": tuple(tags)})
    home = data or Path(settings["data"])
    corpus = load_corpus(home)
    if corpus_digest(home) != settings.get("data_fingerprint"):
        raise DataError(
            "these are not the annotations that the run was made with", where=str(home), mend="give --data"
        )
    read = read_samples_of(read_samples(folder), corpus, asking)
    samples = [sample for sample, _ in read]
    if all(sample.status == "error" for sample in samples):
        kinds = Counter(sample.error or "unknown" for sample in samples)
        raise DataError(
            "nothing was answered: "
            + (", ".join(f"{kind} {n}" for kind, n in kinds.most_common()) or "no sample"),
            where=str(folder),
            mend="run again with the same command, which asks anew what failed",
        )
    chains = plan(corpus, asking)
    asked: dict[str, set[int]] = {}
    for chain in chains:
        for step in chain:
            asked.setdefault(step.video, set()).update(step.numbers)
    source = Source(
        name=settings["model"] + ("" if asking.control == "none" else f" ({asking.control})"),
        path=folder,
        data=home,
        sets=tuple(assemble(read, corpus.ids)),
        asked=asked,
        rated=any(step.rate for chain in chains for step in chain),
        samples=tuple(samples),
        never=len({step.id for chain in chains for step in chain} - {sample.id for sample in samples}),
        videos=len(corpus),
        absent=len(asked.keys() - {sample.video for sample in samples}),
        settings=settings,
        orders=orders_in(samples),
    )
    judged = _judgement(folder, judge)
    return _with_judgement(source, judged, corpus) if judged else source


def _judgement(folder: Path, wanted: str | None) -> str:
    """The name of the judgement's folder; empty where there is none, or none is wanted."""
    if wanted == "":
        return ""
    there = sorted(path.parent.name for path in folder.glob("judge-*/judge.json"))
    if wanted is None:
        if len(there) > 1:
            named = ", ".join(there)
            raise ConfigError(
                "there are several judgements", where=str(folder), mend=f"name one with --judge: {named}"
            )
        return there[0] if there else ""
    for name in (wanted, f"judge-{wanted}"):
        if name in there:
            return name
    raise ConfigError(
        f"no judgement {wanted!r}", where=str(folder), mend=f"there are: {', '.join(there) or 'none'}"
    )


class Judgement(msgspec.Struct, frozen=True):
    """The settings of a judgement, as its folder keeps them."""

    rubric: Rubric
    judges: list[str]
    quorum: Annotated[int, msgspec.Meta(ge=1)]
    bins: Bins = "paper"
    polarity: Polarity = "as_released"
    temperature: float | None = None
    prompts: str = ""


def read_judgement(folder: Path) -> dict[str, Any]:
    """The settings of a judgement; empty where there is none.

    Raises:
        DataError: the settings cannot be read.
    """
    path = folder / "judge.json"
    if not path.exists():
        return {}
    try:
        return msgspec.structs.asdict(msgspec.json.decode(read_bytes(path), type=Judgement))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"not a judgement's settings ({error})", where=str(path), mend="judge again"
        ) from None


def _with_judgement(source: Source, judged: str, corpus: Corpus) -> Source:
    """The source with the scores of its judges."""
    folder = source.path / judged
    settings = read_judgement(folder)
    kind: Rubric = settings["rubric"]
    panel: list[str] = settings["judges"]
    samples = read_samples(folder)
    cases = cases_of(corpus, source.sets[0], settings["bins"], settings["polarity"])
    scores = judged_by(cases, samples, kind, panel=panel, quorum=settings["quorum"])
    return replace(
        source,
        sets=tuple(
            {name: replace(one, judged=scores.get(name, {})) for name, one in rows.items()}
            for rows in source.sets
        ),
        judged=judged,
        judgement=settings,
        rationales=len(cases),
        verdicts=sum(len(traits) for traits in scores.values()),
        agreement=agreement_of(cases, samples, kind, panel=panel),
    )


def corpus_digest(folder: Path) -> str:
    """SHA-256 of all annotations in a folder, names and contents."""
    home = load_keys(folder).folder
    assert home is not None
    digest = hashlib.sha256()
    for path in sorted(home.glob("*.json")):
        digest.update(os.fsencode(path.name) + b"\0" + hashlib.sha256(read_bytes(path)).digest())
    return digest.hexdigest()


def read_subset(path: Path, keys: Keys) -> dict[str, set[int]]:
    """{video: numbers of its questions} of a file that `noria grounding audit` wrote.

    Args:
        path: the file.
        keys: answer keys of the questions.

    Raises:
        DataError: it is no such file, or names a question that is not there.
    """
    try:
        subset = msgspec.json.decode(read_bytes(path), type=dict[str, set[int]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DataError(
            "not a subset of questions", where=str(path), mend="give the clean.json that the audit wrote"
        ) from None
    every = keys.numbers
    for video, numbers in subset.items():
        if not numbers <= every.get(video, set()):
            what = f"the annotations lack question {min(numbers - every.get(video, set()))} of {video!r}"
            raise DataError(what, where=str(path), mend="audit these annotations anew")
    return subset
