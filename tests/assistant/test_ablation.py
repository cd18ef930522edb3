"""What each part contributes: helps where it does, nothing where it does nothing, and a stopped one resumes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.settings import AblationConfig
from noria.assistant.learning import ablated
from noria.assistant.service.service import opened_gateway
from noria.core.learning.ending import ERASED
from noria.core.service.hosting import running
from tests.assistant.gateways import TOKEN, Gateway
from tests.assistant.test_bodies import BANK, RULE, bank, respond, traffic, values
from tests.assistant.test_console import page
from tests.assistant.test_plan_learner import shop, shoppers, snapshot
from tests.assistant.test_ranking import search
from tests.assistant.test_tools import server
from tests.chat_server import Body, Reply, chat_server
from tests.core.test_ending import telling


def ablate(folder: Path, *more: str, code: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "noria.cli", "assistant", "ablate", "--folder", str(folder)]
    command += ["--config", str(folder.parent / "noria.yaml"), "--requests", "60", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def ablate_here(folder: Path, settings: dict[str, Any], **more: Any) -> Any:
    """The same in this process."""
    config = AssistantConfig.model_validate(settings)
    return asyncio.run(ablated(folder, config, AblationConfig(requests=60), **more))[1]


def result(folder: Path, number: int = 1) -> Any:
    return json.loads((folder / "ablations" / f"{number:06d}" / "result.json").read_text())


def test_a_part_that_helps_a_part_that_shows_nothing_and_a_budget(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with chat_server(respond) as backend:
        settings = values(backend.url, bank(tmp_path / "bank", sheet=f"{BANK}{RULE}\n"))
        (tmp_path / "noria.yaml").write_text(json.dumps(settings))
        config = AssistantConfig.model_validate(settings)
        opened = opened_gateway(folder, config, token=TOKEN, companion=False, access_log=False)
        with opened as service, running(service) as url:
            one = Gateway(url, folder, backend)
            traffic(one, 0, 80)
            assert "Nobody has measured it" in page(one, "/parts")
            (part,) = ablate_here(folder, settings, money=0.001)["parts"]
            assert (part["verdict"], part["why"]) == ("not known", "stopped: its budget of 0.001 is spent")
            assert "It did not end" in page(one, "/parts")
            said, err = ablate(folder)
            assert "skills: helps" in err
            assert said.splitlines()[1].startswith("skills  helps")
            found = result(folder)
            assert found["ended"]
            assert telling(folder / "ablations", "I look for") == [], "it has ended"
            (skills,) = found["parts"]
            assert (skills["requests"], skills["changed"], skills["failed"]) == (60, 60, 0)
            # two users ask the same in the same words: dealt to different splits, one of them lies in none
            assert skills["acted"] in (79, 80)
            assert skills["low"] == 1.0
            assert skills["cost"] == 0.0, "the double counts the same tokens with and without a body"
            shown = page(one, "/parts")
            assert "helps" in shown
            assert "judged blind by gate" in shown
            seen = len(backend.seen)
            ablate_here(folder, settings)
            assert result(folder, 2)["parts"][0]["verdict"] == "helps", "one that ended is not begun again"
            assert len(backend.seen) > seen

    plain = tmp_path / "plain" / "data"
    with chat_server(respond) as backend:
        settings = values(backend.url, bank(tmp_path / "plain" / "bank"))
        (plain.parent / "noria.yaml").write_text(json.dumps(settings))
        config = AssistantConfig.model_validate(settings)
        opened = opened_gateway(plain, config, token=TOKEN, companion=False, access_log=False)
        with opened as service, running(service) as url:
            one = Gateway(url, plain, backend)
            traffic(one, 0, 40)
            assert ablate_here(plain, settings)["parts"][0]["verdict"] == "shows nothing"
            assert "shows nothing" in page(one, "/parts")


def test_an_ablation_of_which_somebody_is_erased_stops_and_the_next_one_is_another(tmp_path: Path) -> None:
    erasing: list[Callable[[], object]] = []

    def asked(body: Body, number: int) -> Reply:
        if body["model"] == "gate" and erasing:
            erasing.pop()()
        return respond(body, number)

    folder = tmp_path / "data"
    with chat_server(asked) as backend:
        settings = values(backend.url, bank(tmp_path / "bank", sheet=f"{BANK}{RULE}\n"))
        config = AssistantConfig.model_validate(settings)
        opened = opened_gateway(folder, config, token=TOKEN, companion=False, access_log=False)
        with opened as service, running(service) as url:
            one = Gateway(url, folder, backend)
            traffic(one, 0, 40)
            user = {"caller": "operator", "user": "user 3"}
            erasing.append(lambda: one.call("/v1/users/erase", user))
            (part,) = ablate_here(folder, settings)["parts"]
            assert (part["verdict"], part["why"]) == ("not known", f"stopped: {ERASED}")
            assert telling(folder / "ablations", "I look for") == []
            (part,) = ablate_here(folder, settings)["parts"]
            assert part["verdict"] == "helps"
            assert (result(folder, 2)["ended"], result(folder, 2)["requests"]) == (True, 39)


def test_without_a_judge_or_a_gateway_it_says_so(tmp_path: Path) -> None:
    settings = values("http://127.0.0.1:9/v1", tmp_path)
    (tmp_path / "noria.yaml").write_text(json.dumps(settings | {"learning": {}}))
    assert "a gate needs a judge and a checklist" in ablate(tmp_path / "data", code=2)[1]
    (tmp_path / "noria.yaml").write_text(json.dumps(settings))
    assert "there is no journal" in ablate(tmp_path / "data", code=2)[1]


def test_tools_are_left_out_with_their_results_and_an_order_is_read_from_choices(tmp_path: Path) -> None:
    def reply(body: Body, number: int) -> Reply:
        if body["model"] == "m":
            return search(body, number)
        good = "six things" in str(body["messages"][-1]["content"]).partition("Answer:")[2]
        answers = [{"number": 1, "answer": "yes" if good else "no", "reason": "r"}]
        return Reply(json.dumps({"answers": answers}))

    folder = tmp_path / "data"
    with server(shop) as (tools, _), chat_server(reply) as backend:
        settings = values(backend.url, tmp_path / "none", learners=["plans"])
        settings["parts"] = {
            "tools": {"shop": {"kind": "mcp", "url": tools}},
            "blending": str(snapshot(tmp_path / "s.json")),
        }
        (tmp_path / "noria.yaml").write_text(json.dumps(settings))
        config = AssistantConfig.model_validate(settings)
        opened = opened_gateway(folder, config, token=TOKEN, companion=False, access_log=False)
        with opened as service, running(service) as url:
            one = Gateway(url, folder, backend)
            shoppers(one, 50, "picture")
            parts = {part["part"]: part for part in ablate_here(folder, settings)["parts"]}
            assert parts["tools"]["verdict"] == "helps", "the results are what the answer rests on"
            assert parts["plans"]["verdict"] == "hurts", "it puts first what people do not choose"
            assert parts["plans"]["requests"] == 50
            assert "hurts" in page(one, "/parts")
