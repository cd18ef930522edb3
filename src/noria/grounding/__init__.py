"""Is a right rating grounded in what the model saw? (MM-OCEAN, arXiv 2605.22109).

A model that rates a person in a clip can be right because of what the person did, or because of a shirt. The benchmark
asks for the rating, for reasons, and for where and when the cues are; four rates say who is right for the right reason.
Here are a scorer that no refusal fools, protocols and controls that make the rates mean what they say, an audit of the
questions, a builder for one's own clips, and SynthOCEAN, a world in which it is known what is shown.

Read in this order; each room stands on those above it:

| room | holds |
| --- | --- |
| `corpus` | `types` (traits, levels), `letters` (of answers), `questions`, `cues`, `records`, `files`, `checks`, |
| | `clips` |
| `scoring` | `rates` (Sec. 4.4: R1, R2, R3; PR, CR, IR, HR), `intervals`, `views` (chance, PR by trait, σ, RGM), |
| | `answers` (numbered), `predictions` (as arrays), `evaluation` (a model), `comparing`, `board` (several), |
| | `official`, `config` |
| `synth` | SynthOCEAN: `world` (people, questions, records), `drawing` (frames and sound), `config` (its knobs) |
| `asking` | `types`, `config`, `protocols`, `prompts` (what is asked), `media`, `runner`, `parsing`, `store` |
| `audit` | `adversary` (classifiers that do not see), `findings`, `readers` (the reference ladder) |
| `judging` | `cases` (Sec. 4.3: four dimensions), `rules` (a judge without a model), `judge`, `agreement` |
| `building` | writing one's own: `aligner` (checks), `writer` (briefs), `builder` (rounds), `review` (by people) |
| `results` | `sources` (a run folder or a file of predictions), `scores` (of one model, of several) |
| `integrations` | Hugging Face models in this process, tasks for lmms-eval and inspect_ai |
| `verbs`, `proof` | what a user types, one file a verb; the claims, measured |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.grounding.corpus.files import load_corpus as load_corpus
    from noria.grounding.corpus.records import Corpus as Corpus
    from noria.grounding.scoring.config import ScoreSettings as ScoreSettings
    from noria.grounding.scoring.evaluation import evaluate as evaluate, scored as scored
    from noria.grounding.scoring.predictions import (
        Prediction as Prediction,
        load_predictions as load_predictions,
    )
    from noria.grounding.scoring.rates import Marks as Marks, Theta as Theta, Truth as Truth
    from noria.grounding.synth.config import Knobs as Knobs
    from noria.grounding.synth.world import make_corpus as make_corpus

__getattr__, __dir__, __all__ = lazily(__name__)
