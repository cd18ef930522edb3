"""The examples do what their README says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "grounding"


def test_the_same_accuracy_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / "same_accuracy.py"), run_name="__main__")
    printed = capsys.readouterr().out.strip()
    assert printed in (FOLDER / "README.md").read_text()
