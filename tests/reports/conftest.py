"""A small corpus of every kind of file that is cheap to make, and its index, made once for all tests."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from noria.reports.agents.pipeline import Job
from noria.reports.document.bundle import Bundle
from noria.reports.reading.documents import Document, Piece
from noria.reports.search.index import Index, build_index, corpus_documents

LANDS = {"France": (7.4, 7.5, 7.3), "Germany": (3.5, 3.1, 3.2), "Japan": (2.6, 2.6, 2.6)}
REQUEST = (
    "Compare the unemployment rate and the median income of France, Germany and Japan. "
    "Draw a line chart of the unemployment rate and a bar chart of the median income. Add a photo of the red bridge."
)


def png(size: tuple[int, int] = (640, 480), seed: int = 0) -> bytes:
    """A picture with edges: filled squares on a plain ground."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 200, np.uint8)
    for _ in range(30):
        x, y, side = int(rng.integers(0, size[0])), int(rng.integers(0, size[1])), int(rng.integers(20, 120))
        pixels[y : y + side, x : x + side] = rng.integers(0, 255, 3)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def lands() -> list[Document]:
    documents = []
    for name, rates in LANDS.items():
        pieces = [
            Piece(
                f"{rate}% ({2024 - n} est.)",
                f"Economy > Unemployment rate > {2024 - n}",
                name,
                f"Unemployment rate {2024 - n}",
            )
            for n, rate in enumerate(rates)
        ]
        pieces.append(
            Piece(f"${30 + len(name)},500 (2024 est.)", "Economy > Median income", name, "Median income")
        )
        documents.append(
            Document(
                f"lands/{name}.json",
                f"{name}. Fact book",
                "Office",
                "2025",
                "public domain",
                pieces,
                origin=name.encode(),
            )
        )
    return documents


@dataclass(frozen=True)
class Corpus:
    folder: Path
    index: Path
    counts: dict[str, int]
    warnings: list[str]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    home = tmp_path_factory.mktemp("corpus")
    folder = home / "files"
    folder.mkdir()
    (folder / "notes.md").write_text(
        "# Rivers\n\nThe Loire is 1,006 km long.\n\n| river | length "
        "(km) |\n|---|---|\n| Loire | 1,006 |\n| Rhine | 1,230 |\n"
    )
    (folder / "page.html").write_text(
        "<html><head><title>Coal</title></head><body><script>evil()</script>"
        "<h2>Use</h2><p>Coal use fell by 12% in 2023.</p></body></html>"
    )
    (folder / "sales.csv").write_text(
        "month,sales [tn.],note\nMar,1,200\nJan,1,\nFeb,-,x\n".replace("1,200", '"1,200"')
    )
    (folder / "blocked.html").write_text(
        "<html><body><p>Please enable JavaScript to view this page.</p></body></html>"
    )
    (folder / "temps.json").write_text(
        json.dumps(
            [{"year": 1990 + n, "city": c, "temp": 10 + n / 10} for n in range(6) for c in ("Oslo", "Rome")]
        )
    )
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    (folder / "red-bridge.png").write_bytes(png())
    (folder / "tool.exe").write_bytes(b"MZ")
    warnings: list[str] = []
    path = home / "corpus.index"
    counts = build_index(path, [*lands(), *corpus_documents([str(folder)], warnings)], retrieved="2026-01-02")
    return Corpus(folder, path, counts, warnings)


@pytest.fixture
def index(corpus: Corpus):
    with Index(corpus.index) as opened:
        yield opened


@pytest.fixture(scope="session")
def made(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """A finished report and its folder; tests copy it before they break it."""
    folder = tmp_path_factory.mktemp("report") / "r"
    folder.mkdir()
    with Index(corpus.index) as opened:
        return folder, Job(folder, opened).write(REQUEST)
