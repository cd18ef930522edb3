"""Scores of opened sources: one model, or several on the same questions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noria.core.errors import ConfigError
from noria.grounding.corpus.files import load_keys
from noria.grounding.corpus.records import Keys
from noria.grounding.results.sources import Source, read_subset
from noria.grounding.scoring.board import compare_models
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.scoring.evaluation import evaluate


def score_source(source: Source, settings: ScoreSettings, *, subset: Path | None = None) -> dict[str, Any]:
    """All figures of a model, as JSON values.

    Args:
        source: the model's answers.
        settings: settings of the scoring.
        subset: file of the questions to keep, as the audit writes it.

    Raises:
        DataError: the subset's file is none.
    """
    keys = load_keys(source.data)
    part = None if subset is None else read_subset(subset, keys)
    result = about(source) | evaluate(source.scored(keys, settings, part), settings)
    result["subset"] = None if subset is None else str(subset)
    return result


def about(source: Source) -> dict[str, Any]:
    """What a model's figures rest on, as JSON values: its answers, its judgement, and what of them is missing."""
    result: dict[str, Any] = {
        "name": source.name,
        "source": str(source.path),
        "judged": source.judged,
        "agreement": dict(source.agreement),
        "coverage": {
            "videos": source.videos,
            "absent": source.absent,
            "unknown": source.unknown,
            "rationales": source.rationales,
            "judged": source.verdicts,
        },
    }
    if source.samples:
        costs = [sample.cost for sample in source.samples if sample.cost is not None]
        result["samples"] = {
            "states": dict(Counter(sample.status for sample in source.samples)),
            "never_asked": source.never,
            "rungs": Counter(str(sample.rung) for sample in source.samples),
            "cost": sum(costs) if costs else None,
        }
        result["run"] = dict(source.settings)
    return result


def compare_sources(sources: Sequence[Source], settings: ScoreSettings) -> dict[str, Any]:
    """Every pair of models, and all of them together, as `compare_models` gives them.

    Raises:
        ConfigError: fewer than two, or models asked about different videos or questions.
    """
    if len(sources) < 2:
        raise ConfigError("a comparison needs two models", where="compare")
    keys = shared_keys(sources)
    if not asked_alike(sources, keys):
        raise ConfigError("the models were asked different questions", where="compare")
    models = [source.scored(keys, settings) for source in sources]
    return compare_models([source.name for source in sources], models, settings)


def shared_keys(sources: Sequence[Source]) -> Keys:
    """The answer keys that all sources are about.

    Raises:
        ConfigError: the sources are about different videos.
    """
    keys = load_keys(sources[0].data)
    for source in sources[1:]:
        if load_keys(source.data).ids != keys.ids:
            raise ConfigError("the models were asked about different videos", where=str(source.path))
    return keys


def asked_alike(sources: Sequence[Source], keys: Keys) -> bool:
    """Whether all models were asked the same questions; a file of predictions was asked everything."""

    def questions(source: Source) -> str:
        asked = keys.numbers if source.asked is None else source.asked
        pairs = {video: sorted(numbers) for video, numbers in sorted(asked.items()) if numbers}
        return json.dumps([pairs, source.rated])

    return len({questions(source) for source in sources}) == 1
