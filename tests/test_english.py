"""The mechanical part of the house's English: a docstring, an argument's entry or a help text can be read alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "noria"
FILES = sorted(SOURCE.rglob("*.py"))
ODD_START = re.compile(r"(Of|As of|As|Likewise|The same|Its|Their)\b", re.IGNORECASE)
QUESTION = re.compile(r"How\b")  # a docstring names a thing or says what is done
SHORT = 3  # words


def first_sentence(text: str) -> str:
    return text.strip().partition("\n\n")[0].replace("\n", " ")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def helps(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in ("help", "description", "short_help") and isinstance(
                    keyword.value, ast.Constant | ast.JoinedStr
                ):
                    parts = [n.value for n in ast.walk(keyword.value) if isinstance(n, ast.Constant)]
                    text = "".join(part for part in parts if isinstance(part, str))
                    if text:
                        yield keyword.value.lineno, text


def entries(text: str) -> Iterator[str]:
    """The entries of `Args:` and `Attributes:`."""
    for block in re.findall(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", text, flags=re.M):
        yield from re.findall(r"^ {4}\w[\w, ]*: (.*)$", block, flags=re.M)


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_what_is_read_alone_makes_sense_alone(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    odd = []
    for line, text in docstrings(tree):
        start = first_sentence(text)
        if ODD_START.match(start) or QUESTION.match(start) or len(start.split()) < SHORT:
            odd.append(f"{line}: {start}")
        odd += [f"{line}: Args: {entry}" for entry in entries(text) if ODD_START.match(entry)]
    for line, text in helps(tree):
        if ODD_START.match(text) or QUESTION.match(text) or len(text.split()) < SHORT:
            odd.append(f"{line}: help {text}")
    assert odd == []
