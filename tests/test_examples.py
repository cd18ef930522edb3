"""The examples run as their README says, each in a folder of its own, and show what it promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from noria.cli import SYSTEMS

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(folder: Path, *command: str) -> str:
    """What a command prints on stdout; it must end well."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def noria(folder: Path, *words: str) -> str:
    return run(folder, "-m", "noria.cli", *words)


def test_every_built_system_has_an_example_with_a_readme() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/README.md")} == {*SYSTEMS, "assistant"}


def test_the_feed_prices_its_plans(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "blending" / "feed.py"))
    for line in printed.strip().splitlines()[-3:]:
        assert line in (EXAMPLES / "blending" / "README.md").read_text()
    assert (tmp_path / "runs" / "blending" / "attribute" / "report.html").exists()


def test_a_week_of_a_shop_ends_with_the_better_prompt(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "assistant" / "shop_week.py"))
    assert "promoted: helpful is better" in printed
    assert printed.strip().endswith("the shop now answers by: thorough")


def test_the_walk_from_nothing_to_a_promotion(tmp_path: Path) -> None:
    """The commands of docs/assistant-start.md, with a shorter experiment."""
    from noria.core.service.hosting import launched

    folder = EXAMPLES / "assistant"
    token = {"NORIA_TOKEN": "t" * 24}
    places = [
        "--config",
        str(tmp_path / "noria.yaml"),
        "--folder",
        str(tmp_path / "noria-data"),
        "--port",
        "0",
    ]
    command = [sys.executable, "-m", "noria.cli", "serve", "--no-access-log", *places]
    with launched([sys.executable, str(folder / "stub_server.py"), "0"], tmp_path, env={}) as stub:
        words = ("--url", f"{stub.url}/v1", "--model", "talker", "--judge", "judge")
        noria(tmp_path, "assistant", "init", "noria.yaml", *words)
        experiment = "  experiment: {shadow_requests: 20, canary_units: 0, planned: 300, least: 20}\n"
        file = tmp_path / "noria.yaml"
        file.write_text(file.read_text().replace("learning:\n", "learning:\n" + experiment))
        with launched(command, tmp_path, env=token) as gateway:
            customers = (str(folder / "customers.py"), gateway.url, "--number")
            run(tmp_path, *customers, "700")
            time.sleep(4)  # the judges are at it
            said = noria(tmp_path, "assistant", "learn", "--config", "noria.yaml", "-m", "walk")
            assert "handed over" in said, said
            for _ in range(12):
                run(tmp_path, *customers, "250")
                time.sleep(1.5)
                found = called(gateway.url, "experiments", token)["data"][0]
                if found.get("won"):
                    break
            assert found.get("won"), found
            wish = {"bundle": found["config"]["challenger"], "based_on": 1, "reason": "won"}
            moved = called(gateway.url, "promote", token, wish)
            assert moved["bundle"] == wish["bundle"]
            time.sleep(1)
            assert run(tmp_path, *customers, "50").startswith("50 of 50")


def called(url: str, path: str, token: dict[str, str], content: dict[str, Any] | None = None) -> Any:
    """What a call of a gateway by its operator is answered with."""
    headers = {"authorization": f"Bearer {token['NORIA_TOKEN']}", "content-type": "application/json"}
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{url}/v1/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_forgotten_hinge_is_found_and_mended(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "editing" / "rain.py"))
    assert printed in (EXAMPLES / "editing" / "README.md").read_text()
    assert (tmp_path / "out" / "report.html").exists()


def test_a_report_of_rivers_is_traced(tmp_path: Path) -> None:
    folder = EXAMPLES / "reports"
    noria(tmp_path, "reports", "index", str(folder / "notes"), "-o", "rivers.index")
    noria(
        tmp_path,
        "reports",
        "write",
        "Loire: line chart of length",
        "-i",
        "rivers.index",
        "-o",
        "report",
        "--offline",
    )
    assert "1,006" in (tmp_path / "report" / "report.md").read_text()
    noria(tmp_path, "reports", "verify", "report")


def test_hidden_tokens_tell_the_flow_from_chance(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "credit" / "hidden_tokens.py"))
    shares = {
        (name, end): float(share)
        for name, end, share in re.findall(r"^(\w+) +(\w+) +(\d+)%", printed, flags=re.M)
    }
    assert shares["flow", "top"] > shares["random", "top"] + 30 > shares["flow", "bottom"] + 30


def test_a_trained_head_drafts_more(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "mtp" / "train_and_draft.py"), "here")
    before, after = (float(re.search(rf"{w}: +([\d.]+)", printed)[1]) for w in ("before", "after"))  # type: ignore[index]
    assert after > before + 0.4


def test_the_router_beats_the_best_single_route(tmp_path: Path) -> None:
    run(tmp_path, str(EXAMPLES / "routing" / "scripted_table.py"))
    train = ["train", "--table", "table.jsonl", "--steps", "200", "--prompts", "32", "--thrift", "0.3", "-q"]
    noria(tmp_path, "routing", *train)
    printed = noria(
        tmp_path, "routing", "compare", "--table", "table.jsonl", "runs/routing/table-network-recal"
    )
    macro = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    own = next(line for name, line in macro.items() if "recal" in name)
    assert float(re.findall(r"\d\.\d+", own)[0]) > 0.85


def test_a_student_of_digits_is_distilled(tmp_path: Path) -> None:
    noria(tmp_path, "distill", "teacher", "--steps", "60", "--output", "teacher.safetensors")
    config = str(EXAMPLES / "distill" / "digits.yaml")
    noria(tmp_path, "distill", "train", "--config", config, "-o", "digits", "iterations=4", "-q")
    assert (tmp_path / "digits" / "report.html").exists()


def test_a_shops_week_repairs_its_descriptions(tmp_path: Path) -> None:
    folder = EXAMPLES / "skills"
    for name in ("rubric.yaml", "tasks.yaml"):
        shutil.copy(folder / name, tmp_path)
    shutil.copytree(folder / "shop", tmp_path / "shop")
    run(tmp_path, str(folder / "shop_week.py"), "traffic.jsonl")
    data = ("--data", "traffic.jsonl")
    noria(tmp_path, "skills", "init", "shop")
    printed = noria(tmp_path, "skills", "route", "shop", *data)
    before, after = re.search(r"macro F1 (\S+) → (\S+)", printed).groups()  # type: ignore[union-attr]
    assert f"from {before} to {after}" in (folder / "README.md").read_text()
    assert "# sizes: description" in noria(tmp_path, "skills", "diff", "shop", "head~1")
    assert "repair" in noria(tmp_path, "skills", "refine", "shop", *data, "--rubric", "rubric.yaml")
    assert "waiting" in noria(tmp_path, "skills", "create", "shop", "tasks.yaml")
    noria(tmp_path, "skills", "rollback", "shop", "--reason", "we liked it as it was")
    assert (tmp_path / "shop/sizes/SKILL.md").read_bytes() == (folder / "shop/sizes/SKILL.md").read_bytes()
    noria(tmp_path, "skills", "report", "shop")
    assert (tmp_path / "shop" / ".noria" / "report.html").exists()


def test_a_clip_of_the_world_goes_the_whole_way(tmp_path: Path) -> None:
    run(tmp_path, str(EXAMPLES / "tryon" / "world_clip.py"), "clip")
    parts = ("--mask", "clip/mask.npz", "--hands", "clip/hands.npz", "--actions", "clip/actions.json")
    noria(tmp_path, "tryon", "inspect", "clip/video.mp4", *parts)
    noria(
        tmp_path,
        "tryon",
        "generate",
        "clip/video.mp4",
        *parts,
        "-g",
        "clip/garment.png",
        "--steps",
        "2",
        "-q",
    )
    assert (tmp_path / "runs" / "tryon" / "video-garment" / "result.mp4").exists()
    assert (tmp_path / "runs" / "tryon" / "inspect-video" / "report.html").exists()
