"""The shop as processes: its models, its gateway with the tools that it starts, and the files that they read."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from noria.assistant.products.catalogue import NAME as PRODUCTS, Catalogue
from noria.assistant.products.updating import checked_feed, update_feed
from noria.assistant.service.started import KEEPER
from noria.assistant.world.catalogue import catalogue, write_feed
from noria.assistant.world.judges.model import NAMES as JUDGES, QUESTIONS, WEIGHTS
from noria.assistant.world.model_server import ASSETS
from noria.core.errors import ConfigError, RunError
from noria.core.files import write_atomic
from noria.core.pictures import NOTICES
from noria.core.service.hosting import TOKEN, launched

SKILLS = ASSETS / "skills"
"""Bank of skills with which a shop opens: bodies that ask for little, descriptions that say little."""
PLACES = ("norway", "france", "japan", "brazil", "kenya", "canada")
MEASURES = ("unemployment rate", "death rate", "birth rate", "net migration rate", "population growth rate")
TOPICS = tuple(
    f"{measure} in {place}"
    for n, place in enumerate(PLACES)
    for measure in (MEASURES[n % 5], MEASURES[(n + 2) % 5])
)
"""Topics of reports that users ask for; no training dialogue names these countries."""
DATA = "data"
"""Folder of the gateway in that of the shop."""
SUGGESTIONS = (
    "is teddy bear in stock, 20 euros is my limit", "how long is the delivery", "draw me the digit seven",
    "prepare a report on death rate in japan",
)  # fmt: skip
"""Messages that the page for people offers."""
SYSTEM = "You are the assistant of a shop."
INDEX = "reports.index"
"""File of the reports' sources."""
MODEL = "large"
"""Model with which a shop opens."""
JUDGED, SHARE = 0.02, 0.1
"""Price of a million tokens that a judge reads, and share of the answers that are judged."""
PRICES = {"small": 0.1, "large": 0.4}
"""Price of a million tokens that a model reads; of those that it writes, four times as much."""


@dataclass(frozen=True)
class Shop:
    """A shop that runs.

    Attributes:
        url: address of its gateway.
        folder: folder of the gateway.
        config: file of the gateway's settings.
        token: the operator's token.
    """

    url: str
    folder: Path
    config: Path
    token: str
    process: subprocess.Popen[str]

    def wait(self) -> None:
        """Wait until somebody ends the gateway, or this process."""
        with contextlib.suppress(KeyboardInterrupt):
            self.process.wait()


def prepare_files(home: Path) -> None:
    """Write what the shop's processes read: the feed of products, and the index of the reports' sources.

    Raises:
        MissingExtra: a package of pictures or of the reports' sources is not installed.
    """
    feed = home / "feed" / "shop.csv"
    if not feed.exists():
        write_feed(catalogue(), feed.parent)
    (home / DATA).mkdir(exist_ok=True)
    with contextlib.closing(Catalogue(home / DATA / PRODUCTS)) as products:
        update_feed(products, "shop", checked_feed(feed))
    if not (home / INDEX).exists():
        from noria.reports.search.index import build_index, corpus_documents

        build_index(home / INDEX, corpus_documents(["factbook"], []), retrieved="2026-01-01")


def gateway_settings(home: Path, models: str, judges: str, *, learner: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the gateway.

    Args:
        home: folder of the shop.
        models: address of the server of the models.
        judges: address of the server of the judges.
        learner: settings of the learning.
    """
    routed = {
        name: {
            "url": f"{models}/v1",
            "model": name,
            "timeout": 60,
            "prices": {"input": price, "output": 4 * price},
        }
        for name, price in PRICES.items()
    }
    live, learning, gate = JUDGES
    judging = {
        name: {
            "url": f"{judges}/v1",
            "model": name,
            "timeout": 30,
            "prices": {"input": JUDGED, "output": 4 * JUDGED},
        }
        for name in JUDGES
    }
    return {
        "backends": {**routed, **judging},
        "routes": {name: {"backend": name, "system": SYSTEM} for name in routed},
        "begin": MODEL,
        "parts": {"skills": {"bank": str(SKILLS)}, "tools": started_tools(home), "tool_rounds": 1},
        "products": {"feeds": {"shop": {"path": str(home / "feed" / "shop.csv")}}},
        "judging": {
            "checklist": [
                {"id": name, "question": words, "weight": WEIGHTS[name]} for name, words in QUESTIONS.items()
            ],
            "backends": [live],
            "share": SHARE,
        },
        "learning": {"judge": learning, "gate_judge": gate, **learner},
        "page": {
            "title": "The shop",
            "welcome": "What are you looking for?",
            "about": "A simulated shop: small models trained from scratch answer, and err. "
            + " ".join(NOTICES.values()),
            "suggestions": SUGGESTIONS,
        },
        "promote": "auto",
        "keep_pictures_days": None,
        "seconds": 120.0,
    }


def started_tools(home: Path) -> dict[str, dict[str, Any]]:
    """Settings of the tools that the gateway starts: what edits pictures, what makes them, what writes reports."""
    digits = digits_options()
    edit = [sys.executable, "-m", "noria.assistant.world.editor_server"]
    draw = ["noria", "distill", "serve", digits["source"]]
    draw += [f"--steps={digits['steps']}", f"--guidance={digits['guidance']}"]
    report = ["noria", "reports", "serve", str(home / INDEX), "--output", str(home / "reports")]
    return {
        "edit_image": {"kind": "edit", "start": edit, "cost": 0.002},
        "make_image": {"kind": "generate", "start": draw, "cost": 0.001},
        "write_report": {"kind": "report", "start": report, "cost": 0.002},
    }


def digits_options() -> dict[str, Any]:
    """What draws: the packaged model of digits, in four steps."""
    source = Path(str(files("noria.distill"))) / "assets" / "digits_teacher.safetensors"
    return {"source": str(source), "steps": 4, "guidance": 2.0}


@contextlib.contextmanager
def opened_shop(
    home: Path, *, learner: Mapping[str, Any], port: int = 0, token: str | None = None
) -> Iterator[Shop]:
    """Start the shop's processes; they end with the block.

    Args:
        home: folder of the shop.
        learner: settings of the learning.
        port: port of the gateway; any free one by default.
        token: the operator's token; a new one by default.

    Raises:
        RunError: one of them does not start.
    """
    prepare_files(home)
    token = token or secrets.token_urlsafe(24)
    with contextlib.ExitStack() as stack:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        # What the keeper starts ends with this process, however that was killed.
        keeper = [sys.executable, "-I", str(KEEPER)]
        command = [*keeper, sys.executable, "-m", "noria.assistant.world.model_server"]
        models = stack.enter_context(launched(command, home / "logs", seconds=120, leash=True))
        command = [*keeper, sys.executable, "-m", "noria.assistant.world.judges.server"]
        judges = stack.enter_context(launched(command, home / "logs", seconds=60, leash=True))
        config = home / "shop.json"
        settings = gateway_settings(home, models.url, judges.url, learner=learner)
        write_atomic(config, json.dumps(settings, indent=1) + "\n")
        folder = home / DATA
        serve = [*keeper, sys.executable, "-m", "noria.cli", "serve", "--config", str(config), "--folder", str(folder),
                 "--port", str(port), "--no-access-log"]  # fmt: skip
        gateway = stack.enter_context(
            launched(serve, home / "logs", env={TOKEN: token}, seconds=180, leash=True)
        )
        _await_tools(gateway.url, token)
        yield Shop(gateway.url, folder, config, token, gateway.process)


def _await_tools(url: str, token: str, *, seconds: float = 120.0) -> None:
    """Wait until every tool that the gateway starts serves."""
    request = urllib.request.Request(f"{url}/v1/tools", headers={"authorization": f"Bearer {token}"})
    ends = time.monotonic() + seconds
    off: list[str] = ["all"]
    while off:
        if time.monotonic() > ends:
            raise RunError(f"a tool does not start: {off[0]}", where=url, mend="see the logs in data/servers")
        time.sleep(0.25)
        with urllib.request.urlopen(request, timeout=10) as answer:
            tools = json.load(answer)["data"]
        off = [one["name"] for one in tools if one["off"]]


def check_models() -> None:
    """Check that the trained models are there.

    Raises:
        ConfigError: they are not.
    """
    for name in ("small", "large"):
        if not (ASSETS / name / "model.safetensors").exists():
            raise ConfigError(
                f"the model {name!r} is not there", where=str(ASSETS / name),
                mend="python -m noria.assistant.world.training FOLDER makes it",
            )  # fmt: skip
