"""The page's examples do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from noria.blending.migration.legacy import read_legacy
from noria.blending.plans.plans import load_plans

PAGE = (Path(__file__).parents[2] / "docs" / "blending.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.S)


def test_the_python_example_prints_an_account_that_closes(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    scope: dict[str, object] = {}
    exec(code, scope)  # our own page
    told = scope["ranked"].explain(0)  # type: ignore[attr-defined]
    assert str(told) in capsys.readouterr().out
    assert told["value"] + sum(told["plans"].values()) + told["guard"] == pytest.approx(told["score"])
    assert told["row"] == 0  # the live one, by its boost


def test_the_yaml_examples_are_read(tmp_path: Path) -> None:
    plans, legacy = blocks("yaml")
    (tmp_path / "plans.yaml").write_text(plans)
    (tmp_path / "legacy.yaml").write_text(legacy)
    assert load_plans(tmp_path / "plans.yaml").ids == ["cold-start", "guaranteed"]
    assert [name for name, _ in read_legacy(tmp_path / "legacy.yaml").boosts] == ["all-live", "campaign"]
