"""Is a right rating grounded in what the model saw? (MM-OCEAN, arXiv 2605.22109).

A model that rates a person in a clip can be right because of what the person did, or because of a shirt. The benchmark
asks for the rating, for reasons, and for where and when the cues are; four rates say who is right for the right reason.
Here are a scorer that no refusal fools, protocols and controls that make the rates mean what they say, an audit of the
questions, a builder for one's own clips, and SynthOCEAN, a world in which it is known what is shown.

Read in this order:

| module | holds |
| --- | --- |
| `names`, `questions`, `corpus` | the vocabulary; what words of questions hold; the released file format |
| `scoring`, `comparing` | the 2×2×2 table, rates, intervals, chance; two models or more |
| `predictions`, `official`, `evaluation` | answers as arrays; the released definitions; everything said of a model |
| `world`, `drawing`, `clips` | SynthOCEAN; video in and out |
| `prompts`, `protocols`, `media`, `parsing`, `store`, `runner` | asking a model, and reading what it says |
| `cues`, `judge` | judging reasons |
| `adversary`, `audit`, `readers`, `reading` | who answers without seeing; what is wrong with a benchmark |
| `aligner`, `builder`, `review` | writing one's own |
| `sources`, `jobs`, `pages`, `cli` | what a user types, and the pages that come of it |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.grounding.corpus import Corpus, load_corpus
    from noria.grounding.evaluation import ScoreSettings, evaluate, scored
    from noria.grounding.predictions import Prediction, load_predictions
    from noria.grounding.scoring import Marks, Theta, Truth
    from noria.grounding.world import Knobs, make_corpus

_HOMES = {
    "Corpus": "corpus",
    "Knobs": "world",
    "Marks": "scoring",
    "Prediction": "predictions",
    "ScoreSettings": "evaluation",
    "Theta": "scoring",
    "Truth": "scoring",
    "evaluate": "evaluation",
    "load_corpus": "corpus",
    "load_predictions": "predictions",
    "make_corpus": "world",
    "scored": "evaluation",
}

__all__ = [
    "Corpus",
    "Knobs",
    "Marks",
    "Prediction",
    "ScoreSettings",
    "Theta",
    "Truth",
    "evaluate",
    "load_corpus",
    "load_predictions",
    "make_corpus",
    "scored",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
