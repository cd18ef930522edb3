"""Is a right rating grounded in what the model saw? (MM-OCEAN, arXiv 2605.22109).

A model that rates a person in a clip can be right because of what the person did, or because of a shirt. The benchmark
asks for the rating, for reasons, and for where and when the cues are; four rates say who is right for the right reason.
Here are a scorer that no refusal fools, protocols and controls that make the rates mean what they say, an audit of the
questions, a builder for one's own clips, and SynthOCEAN, a world in which it is known what is shown.

Read in this order; each room stands on those above it:

| room | holds |
| --- | --- |
| `corpus` | `types` (traits, levels), `questions`, `cues` (what words hold), `records`, `files`, `checks`, `clips` |
| `scoring` | `rates` (Sec. 4.4: R1, R2, R3; PR, CR, IR, HR), `intervals`, `views` (chance, PR by trait, σ, RGM), |
| | `predictions` (answers as arrays), `evaluation` (all figures of a model), `comparing`, `official` |
| `synth` | SynthOCEAN: `world` (people, questions, records), `drawing` (frames and sound) |
| `asking` | `protocols`, `prompts` (what is asked), `media`, `runner`, `parsing` (from replies to answers), `store` |
| `audit` | `adversary` (classifiers that do not see), `findings`, `readers` (the reference ladder) |
| `judging` | `cases` (Sec. 4.3: four dimensions), `rules` (a judge without a model), `judge`, `agreement` |
| `building` | writing one's own: `aligner`, `builder`, `review` |
| `results` | `sources` (a run folder or a file of predictions), `scores` (one model, or several) |
| `verbs`, `proof` | what a user types; the claims, measured |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.grounding.corpus.files import load_corpus
    from noria.grounding.corpus.records import Corpus
    from noria.grounding.scoring.config import ScoreSettings
    from noria.grounding.scoring.evaluation import evaluate, scored
    from noria.grounding.scoring.predictions import Prediction, load_predictions
    from noria.grounding.scoring.rates import Marks, Theta, Truth
    from noria.grounding.synth.config import Knobs
    from noria.grounding.synth.world import make_corpus

_HOMES = {
    "Corpus": "corpus.records",
    "Knobs": "synth.config",
    "Marks": "scoring.rates",
    "Prediction": "scoring.predictions",
    "ScoreSettings": "scoring.config",
    "Theta": "scoring.rates",
    "Truth": "scoring.rates",
    "evaluate": "scoring.evaluation",
    "load_corpus": "corpus.files",
    "load_predictions": "scoring.predictions",
    "make_corpus": "synth.world",
    "scored": "scoring.evaluation",
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
