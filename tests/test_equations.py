"""The tables "Where each equation is" of the docs pages: every name in them is a module, a function or a method."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = re.compile(r"^\| equation \| in `(noria\.\w+)` \|\n\| --- \| --- \|\n((?:\|.*\n)+)", re.MULTILINE)
PAGES = {
    page.stem: found
    for page in sorted((ROOT / "docs").glob("*.md"))
    if (found := TABLE.search(page.read_text()))
}


def defined(file: Path) -> set[str]:
    """Names of a module's functions, classes and methods."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{m.name}" for m in ast.walk(node) if isinstance(m, ast.FunctionDef)}
    return names


def module_of(name: str) -> str | None:
    """The module that a dotted name is in, or the name itself where it is one; None where neither exists."""
    parts = name.split(".")
    for cut in range(len(parts), 1, -1):
        file = ROOT.joinpath("src", *parts[:cut]).with_suffix(".py")
        if file.exists():
            known = cut == len(parts) or ".".join(parts[cut:]) in defined(file)
            return ".".join(parts[:cut]) if known else None
    return None


def test_every_system_has_a_table() -> None:
    assert len(PAGES) == 10


@pytest.mark.parametrize("page", sorted(PAGES))
def test_names_of_the_table_exist(page: str) -> None:
    package, rows = PAGES[page].groups()
    missing, module = [], ""
    for name in re.findall(r"`([^`]+)`", "\n".join(row.split(" | ")[1] for row in rows.splitlines())):
        # A bare name, or one that begins with a dot, is in the module of the name before it.
        candidates = (
            [name] if name.startswith("noria.") else [f"{package}.{name}", f"{module}.{name.lstrip('.')}"]
        )
        place = next((place for one in candidates if (place := module_of(one))), None)
        if place is None:
            missing.append(name)
        module = place or module
    assert missing == []
