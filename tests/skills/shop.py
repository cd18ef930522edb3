"""The shop of examples/skills as the tests use it: its bank, its traffic, and the command line."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import noria.cli

EXAMPLE = Path(__file__).parents[2] / "examples" / "skills"
THINGS = ("shop", "rubric.yaml", "tasks.yaml")


def make_shop(home: Path, *, requests: int = 1600) -> Path:
    """Copy the example to a folder and write its traffic: the folder of the bank, which is begun."""
    for name in THINGS:
        source = EXAMPLE / name
        shutil.copytree(source, home / name) if source.is_dir() else shutil.copy(source, home)
    week(home / "traffic.jsonl", requests)
    run_well("init", home / "shop")
    return home / "shop"


def week(path: Path, requests: int = 1600, seed: int = 0) -> list[dict[str, Any]]:
    """Write traffic, and give its rows."""
    spec = importlib.util.spec_from_file_location("shop_week", EXAMPLE / "shop_week.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_week(path, requests, seed=seed)
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*words: object) -> int:
    """Exit code of `noria skills WORDS`."""
    with pytest.raises(SystemExit) as ended:
        noria.cli.main(["skills", *map(str, words)])
    return int(ended.value.code or 0)


def run_well(*words: object) -> None:
    """Run `noria skills WORDS`, which must end well."""
    assert run(*words) == 0, words


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(bank: Path) -> dict[str, bytes]:
    """Bytes of every file of the skills of a bank."""
    return {
        str(p.relative_to(bank)): p.read_bytes()
        for p in sorted(bank.rglob("*"))
        if p.is_file() and ".noria" not in p.parts
    }
