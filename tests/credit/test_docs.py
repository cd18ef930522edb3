"""What the docs page shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[2] / "docs" / "credit.md"


def test_the_examples_of_a_loop_of_ones_own_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    first = names["weights"]
    assert set(first[names["traces"].response].tolist()) == {1.0, 1.5}
    exec(blocks[1], names)
    torch.testing.assert_close(names["weights"], first)
    names["loss"].backward()
    assert all(p.grad is not None for p in names["model"].parameters())
