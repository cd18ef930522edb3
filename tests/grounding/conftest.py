"""A few small clips with their records, made once for all tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("av")

from noria.grounding.corpus.files import save_corpus
from noria.grounding.corpus.records import Corpus
from noria.grounding.synth.config import Knobs
from noria.grounding.synth.drawing import render
from noria.grounding.synth.world import Scene, make_corpus

SMALL = Knobs(width=96, height=72, fps=5)


@dataclass(frozen=True)
class Synth:
    scenes: list[Scene]
    corpus: Corpus
    annotations: Path
    videos: Path


@pytest.fixture(scope="session")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synth:
    folder = tmp_path_factory.mktemp("synth")
    scenes, corpus = make_corpus(6, SMALL, seed=3)
    for scene in scenes:
        render(scene, SMALL, folder / "videos" / scene.video_id)
    save_corpus(corpus, folder / "annotations")
    return Synth(scenes, corpus, folder / "annotations", folder / "videos")
