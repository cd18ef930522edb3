"""Heads of a local model are trained on the answers that it gave, and may not change what it says."""

from __future__ import annotations

import concurrent.futures
import json
import random
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import check
from noria.cli import main
from noria.core.errors import ConfigError
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import gateway, settings
from tests.assistant.test_bodies import WORDS, turned
from tests.chat_server import Body, Reply

NUMBER = 190
TRAINING = {"steps": 12, "length": 64, "train_gamma": 2, "batch_size": 8, "lr": 3e-3, "start": "fresh"}


def prompts() -> list[str]:
    return [f"{' '.join(random.Random(n).sample(WORDS, 3))} {n}+7*2\n" for n in range(NUMBER)]


def own_text(folder: Path) -> dict[str, str]:
    """What the small model writes behind each prompt."""
    asked, said = folder / "prompts.jsonl", folder / "text.jsonl"
    asked.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts()))
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "mtp",
                "sample",
                "small",
                "--prompts",
                str(asked),
                "-o",
                str(said),
                "--max-new-tokens",
                "24",
                "-q",
            ]
        )
    assert ended.value.code == 0
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    return {line["prompt"]: line["completion"] for line in lines}


@pytest.mark.slow
def test_heads_learn_from_the_models_own_answers_and_leave_its_words_as_they_are(tmp_path: Path) -> None:
    written = own_text(tmp_path)
    heads = {"model": "small", "backend": "m", "gamma": 2, "tokens": 6, "settings": TRAINING}
    learning: dict[str, Any] = {"learners": ["heads"], "heads": heads}

    def model(body: Body, number: int) -> Reply:
        return Reply(written[body["messages"][-1]["content"]] or "…")

    folder = tmp_path / "data"
    with gateway(folder, model, learning=learning) as one:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: one.ask(prompts()[n], user=f"user {n}"), range(NUMBER)))
        receipt = turned(folder, settings(one.backend.url, learning=learning))
    assert receipt["outcome"] == "registered", receipt["reason"]
    assert receipt["experiment"] is None, "traffic could not tell it from its parent"
    rules = {rule["name"]: rule for rule in receipt["gate"]["rules"]}
    assert receipt["gate"]["gate"] == "equivalence"
    assert rules["equivalence"]["outcome"] == "passed"
    assert rules["accepted length"]["outcome"] == "passed"
    assert receipt["gate notes"]["accepted length"] > 1.0
    store = ArtefactStore(folder / "versions")
    artefact = store.artefact(store.load_bundle(receipt["bundle"]).artefacts["heads"])
    with pytest.raises(SystemExit) as ended:  # the artefact is a run that the system's own verbs open
        main(["mtp", "evaluate", str(store.path(artefact)), "--data", str(tmp_path / "text.jsonl"), "--gamma", "2",
              "-o", str(tmp_path / "evaluation"), "-q"])  # fmt: skip
    assert ended.value.code == 0


def test_a_model_a_backend_and_settings_are_checked_before_anything_begins() -> None:
    def made(**heads: Any) -> AssistantConfig:
        learning = {"learners": ["heads"], "heads": heads or None}
        return AssistantConfig.model_validate(settings("http://127.0.0.1:9/v1", learning=learning))

    with pytest.raises(ConfigError, match="no model is named"):
        check(made())
    with pytest.raises(ConfigError, match="no backend 'nobody'"):
        check(made(model="small", backend="nobody"))
    with pytest.raises(ConfigError, match="speed"):
        check(made(model="small", backend="m", settings={"speed": 9}))
