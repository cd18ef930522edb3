"""Answers of a model, opened: from a run folder, or from a file of predictions."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import ConfigError, DataError, RunError
from noria.core.files import decoding, read_bytes
from noria.core.records import read_json
from noria.core.runs.run import read_config
from noria.grounding.asking.config import PlanSettings
from noria.grounding.asking.protocols import dealt, plan
from noria.grounding.asking.runner import assemble, orders_in
from noria.grounding.asking.store import Sample, read_samples
from noria.grounding.corpus.files import load_corpus, load_keys
from noria.grounding.corpus.records import Corpus, Keys, each_question
from noria.grounding.corpus.types import Rubric
from noria.grounding.judging.agreement import agreement_of, judged_by
from noria.grounding.judging.cases import cases_of
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.scoring.evaluation import ScoreArrays, scored
from noria.grounding.scoring.predictions import Prediction, load_predictions


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
        settings: settings of a run; empty for a file.
        orders: orders of options, as many as sets; none where options came as they stand.
        judged: name of the judgement that is in the predictions, if any.
        judgement: settings of the judgement; empty where it came with a file.
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
    settings: Mapping[str, Any] = field(default_factory=dict)
    orders: Sequence[int] = ()
    judged: str = ""
    judgement: Mapping[str, Any] = field(default_factory=dict)
    agreement: Mapping[str, float | None] = field(default_factory=dict)

    def scored(
        self, keys: Keys, settings: ScoreSettings, subset: Mapping[str, set[int]] | None = None
    ) -> ScoreArrays:
        """The arrays, of the questions in `subset` alone if there is one.

        Raises:
            ConfigError: the reasons were judged by other levels than the answers would be scored by.
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


def open_source(path: Path, *, data: Path | None = None, judge: str | None = None) -> Source:
    """Open a run folder or a file of predictions.

    Args:
        path: run folder or file of predictions.
        data: folder of the annotations; a run knows its own.
        judge: which judgement of a run to take; the only one by default, none for "".

    Raises:
        ConfigError: a file, and no annotations; a judgement that is not there, or several and none is named.
        RunError: neither a run nor a file.
        DataError: a file in it cannot be read.
    """
    if path.is_dir():
        with decoding(path, "a run of noria grounding", error=RunError):
            return _run(path, data, judge)
    if not path.is_file():
        raise RunError("no such run or file", where=str(path))
    if data is None:
        raise ConfigError("a file of predictions needs its annotations", where=str(path), mend="give --data")
    predictions = load_predictions(path)
    judged = "in the file" if any(one.judged is not None for one in predictions.values()) else ""
    return Source(path.stem, path, data, (predictions,), judged=judged)


def _run(folder: Path, data: Path | None, judge: str | None) -> Source:
    settings = read_config(folder)
    if "protocol" not in settings:
        raise RunError("not a run of noria grounding", where=str(folder))
    home = data or Path(settings["data"])
    corpus = load_corpus(home)
    if corpus_digest(home) != settings.get("data_fingerprint"):
        raise DataError(
            "these are not the annotations that the run was made with", where=str(home), mend="give --data"
        )
    samples = read_samples(folder)
    if samples and all(sample.status == "error" for sample in samples):
        kinds = Counter(sample.error or "unknown" for sample in samples)
        raise DataError(
            "nothing was answered: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()),
            where=str(folder),
            mend="run again with the same command, which asks anew what failed",
        )
    chains = plan(
        corpus, PlanSettings(**{k: settings[k] for k in PlanSettings.model_fields if k in settings})
    )
    asked: dict[str, set[int]] = {}
    for chain in chains:
        for step in chain:
            asked.setdefault(step.video, set()).update(step.numbers)
    sets = assemble(samples, corpus.ids)
    judged = _judgement(folder, judge)
    judgement: dict[str, Any] = {}
    agreement: dict[str, float | None] = {}
    if judged:
        judgement = read_judgement(folder / judged)
        sets, agreement = _with_judgement(folder / judged, judgement, corpus, sets)
    shown = "" if settings["control"] == "none" else f" ({settings['control']})"
    return Source(
        name=f"{settings['model']}{shown}",
        path=folder,
        data=home,
        sets=tuple(sets),
        asked=asked,
        rated=any(step.rate for chain in chains for step in chain),
        samples=tuple(samples),
        never=len({step.id for chain in chains for step in chain} - {sample.id for sample in samples}),
        settings=settings,
        orders=orders_in(samples),
        judged=judged,
        judgement=judgement,
        agreement=agreement,
    )


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


def read_judgement(folder: Path) -> dict[str, Any]:
    """The settings of a judgement; empty where there is none.

    Raises:
        DataError: the settings cannot be read.
    """
    path = folder / "judge.json"
    if not path.exists():
        return {}
    settings = read_json(path)
    if not isinstance(settings, dict) or not {"rubric", "judges", "quorum"} <= set(settings):
        raise DataError("not a judgement's settings", where=str(path), mend="judge again")
    return settings


def _with_judgement(
    folder: Path, settings: Mapping[str, Any], corpus: Corpus, sets: list[dict[str, Prediction]]
) -> tuple[list[dict[str, Prediction]], dict[str, float | None]]:
    kind: Rubric = settings["rubric"]
    panel: list[str] = settings["judges"]
    samples = read_samples(folder)
    cases = cases_of(corpus, sets[0], settings.get("bins", "paper"), settings.get("polarity", "as_released"))
    judged = judged_by(cases, samples, kind, panel=panel, quorum=settings["quorum"])
    agreement = agreement_of(cases, samples, kind, panel=panel)
    return [
        {name: replace(one, judged=judged.get(name, {})) for name, one in rows.items()} for rows in sets
    ], agreement


def corpus_digest(folder: Path) -> str:
    """SHA-256 of all annotations in a folder, names and contents."""
    home = load_keys(folder).folder
    assert home is not None
    digest = hashlib.sha256()
    for path in sorted(home.glob("*.json")):
        digest.update(os.fsencode(path.name) + b"\0" + hashlib.sha256(read_bytes(path)).digest())
    return digest.hexdigest()


def read_subset(path: Path) -> dict[str, set[int]]:
    """{video: numbers of its questions} of a file that `noria grounding audit` wrote.

    Raises:
        DataError: it is no such file.
    """
    subset = read_json(path)
    try:
        return {str(video): {int(n) for n in numbers} for video, numbers in subset.items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise DataError(
            "not a subset of questions", where=str(path), mend="give the clean.json that the audit wrote"
        ) from None
