"""Two models that rate equally well, told apart by the prejudice rate.

Both rate four levels of five rightly. One answers the questions on what is shown, the other guesses them.
"""

from __future__ import annotations

import numpy as np

from noria.grounding import Corpus, Prediction, ScoreSettings, evaluate, make_corpus, scored
from noria.grounding.corpus.types import LEVELS, TRAITS

FIGURES = ("T1", "T3", "PR")


def predictions(corpus: Corpus, *, sees: bool, seed: int) -> dict[str, Prediction]:
    """Answers of a model that sees the clips, or of one that does not."""
    generator = np.random.default_rng(seed)
    answers = {}
    for record, levels in zip(corpus, corpus.levels(), strict=True):
        right = generator.random(5) < 0.8
        rated = np.where(right, levels, generator.integers(5, size=5))
        chosen = {
            number: question.correct_answer if sees else "ABCDEF"[int(generator.integers(6))]
            for number, question in enumerate(record.mcq_questions, start=1)
        }
        named = {trait: LEVELS[level] for trait, level in zip(TRAITS, rated, strict=True)}
        answers[record.video_id] = Prediction(record.video_id, named, answers=chosen)
    return answers


def main() -> None:
    """Score both models on 300 clips of SynthOCEAN and print three figures of each."""
    _, corpus = make_corpus(300, seed=1)
    settings = ScoreSettings(draws=500)
    print(f"{'':12}" + "".join(f"{name:>22}" for name in FIGURES))
    for name, sees in (("sees", True), ("does not see", False)):
        model = scored(corpus, [predictions(corpus, sees=sees, seed=2)], settings)
        figures = {figure["name"]: figure for figure in evaluate(model, settings)["figures"]}
        cells = [f"{f['value']:.3f} [{f['low']:.3f}, {f['high']:.3f}]" for f in (figures[n] for n in FIGURES)]
        print(f"{name:12}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
