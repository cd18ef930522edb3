"""A student of few steps is distilled from what a shop's picture tool was asked for, and swapped in by its hash."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import io
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from noria.assistant.config import AssistantConfig  # noqa: E402
from noria.assistant.learners.around import check  # noqa: E402
from noria.core.errors import ConfigError  # noqa: E402
from noria.core.models.flow import SmallTransformerConfig  # noqa: E402
from noria.core.service.hosting import Launched, launched  # noqa: E402
from noria.core.versions.artefacts import ArtefactStore  # noqa: E402
from noria.distill.config import TeacherConfig  # noqa: E402
from noria.distill.data.images import ImageSet  # noqa: E402
from noria.distill.training.teacher import save_teacher, train_teacher  # noqa: E402
from tests.assistant.gateways import gateway, settings  # noqa: E402
from tests.assistant.test_bodies import WORDS, turned  # noqa: E402
from tests.assistant.test_tools import calls  # noqa: E402
from tests.chat_server import Body, Reply  # noqa: E402

NUMBER = 150
SIDE = 8
CORNERS = ([[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 1], [1, 0]])
PATTERNS = np.stack([np.kron(np.array(corners) * 2.0 - 1, np.ones((4, 4))) for corners in CORNERS])
"""Three pictures [class, 8, 8] that a request can ask for by their number."""
TRAINING = {
    "preset": "cdm-small",
    "iterations": 40,
    "batch_size": 16,
    "checkpoint_every": 40,
    "log_every": 20,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that draws the patterns."""
    chance = np.random.default_rng(0)
    labels = chance.integers(3, size=400)
    images = np.clip(PATTERNS[labels] + 0.15 * chance.normal(size=(400, SIDE, SIDE)), -1, 1)[:, None]
    data = ImageSet(images.astype(np.float32), labels, 3, "patterns", "CC0")
    shape = SmallTransformerConfig(image_size=SIDE, patch=2, width=32, blocks=2, heads=2, classes=3)
    path = tmp_path_factory.mktemp("model") / "teacher.safetensors"
    save_teacher(train_teacher(data, shape, TeacherConfig(steps=250, batch_size=64, lr=4e-3)), path)
    return path


def model(body: Body, number: int) -> Reply:
    """Asks the tool for the picture of the last message; judges a picture by the pattern that is nearest to it."""
    content = body["messages"][-1]["content"]
    if not isinstance(content, str) and any(part["type"] == "image_url" for part in content):
        return judgement(content)
    if body.get("tools") and body["messages"][-1]["role"] == "user":
        return calls("draw", prompt=str(content).rsplit(" ", 1)[-1])
    return Reply("here it is")


def judgement(content: list[Any]) -> Reply:
    words = " ".join(part["text"] for part in content if part["type"] == "text")
    url = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L")
    pixels = np.asarray(picture.resize((SIDE, SIDE)), float) / 127.5 - 1
    distances = ((PATTERNS - pixels) ** 2).mean((1, 2))
    wanted = re.search(r"Request: (\d)", words)
    assert wanted is not None
    shows = int(distances.argmin()) == int(wanted[1])
    said = ["yes" if shows else "no", "yes" if distances.min() < 0.5 else "no"]
    answers = ", ".join(f'{{"number": {n}, "answer": "{one}"}}' for n, one in enumerate(said, 1))
    return Reply(f'{{"answers": [{answers}]}}')


@contextlib.contextmanager
def drawing(teacher: Path, folder: Path, versions: Path) -> Iterator[Launched]:
    """The picture tool, as an operator starts it."""
    import sys

    command = [sys.executable, "-m", "noria.cli", "distill", "serve", str(teacher), "--steps", "12"]
    with launched([*command, "--versions", str(versions), "--port", "0"], folder) as process:
        yield process


@pytest.mark.slow
def test_a_student_draws_as_well_in_fewer_steps_and_answers_by_its_hash(
    tmp_path: Path, teacher: Path
) -> None:
    folder = tmp_path / "data"
    student = {"tool": "draw", "model": str(teacher), "steps": 12, "settings": TRAINING, "margin": 0.15}
    learning: dict[str, Any] = {"learners": ["student"], "student": student, "gate_judge": "m"}
    (folder / "versions").mkdir(parents=True)
    with drawing(teacher, tmp_path, folder / "versions") as tool:
        parts = {"tools": {"draw": {"kind": "generate", "url": f"{tool.url}/v1", "versions": True}}}
        with gateway(folder, model, parts=parts, learning=learning) as one:

            def ask(n: int) -> Any:
                rng = random.Random(n)
                return one.ask(f"{' '.join(rng.sample(WORDS, 4))} please {n % 3}", user=f"user {n}")

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(ask, range(NUMBER)))
            span = next(s for s in one.trace(answers[0]["id"])["trace"]["spans"] if s["kind"] == "tool")
            assert span.get("artefact") is None, "what the tool was started with"
            receipt = turned(folder, settings(one.backend.url, parts=parts, learning=learning))
            assert receipt["outcome"] == "handed over", receipt["reason"]
            rules = {rule["name"]: rule for rule in receipt["gate"]["rules"]}
            assert receipt["gate"]["gate"] == "equivalence"
            assert "±0.15" in rules["equivalence"]["found"]
            assert rules["speed"]["found"] == "4 calls of a network for a picture, 12 before"
            assert receipt["gate notes"]["quality"] > 0.8
            assert receipt["experiment"] is not None
            present = one.call("/v1/champion")[1]["present"]
            content = {"bundle": receipt["bundle"], "based_on": present["version"], "reason": "try it"}
            status, answer = one.call("/v1/promote", content)
            assert status == 200, answer
            digest = ArtefactStore(folder / "versions").load_bundle(receipt["bundle"]).artefacts["student"]
            drawn = ask(NUMBER)
            assert drawn["choices"][0]["message"]["images"]
            span = next(s for s in one.trace(drawn["id"])["trace"]["spans"] if s["kind"] == "tool")
            assert span["artefact"] == span["output"]["notes"]["version"] == digest


def test_the_tool_the_judge_and_the_settings_are_checked_before_anything_begins(teacher: Path) -> None:
    def made(tool: str = "draw", gate_judge: str | None = "m", **more: Any) -> AssistantConfig:
        student = {"tool": tool, "model": str(teacher), **more}
        learning = {"learners": ["student"], "student": student, "gate_judge": gate_judge}
        parts = {"tools": {"draw": {"kind": "generate", "url": "http://127.0.0.1:9/v1"}}}
        return AssistantConfig.model_validate(
            settings("http://127.0.0.1:9/v1", learning=learning, parts=parts)
        )

    check(made())
    with pytest.raises(ConfigError, match="no tool 'paint' of the kind generate"):
        check(made("paint"))
    with pytest.raises(ConfigError, match="nobody judges"):
        check(made(gate_judge=None))
    with pytest.raises(ConfigError, match="speed"):
        check(made(settings={"speed": 9}))
