"""A trained planner in this process: one batch for all who wait, the same plan for the same sample."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from noria.core.errors import ModelError, NoriaError
from noria.editing.planner.planning import PolicyPlanner
from noria.editing.planner.policy import Encoded, Policy, Request

pytest.importorskip("transformers")
pytestmark = pytest.mark.anyio
PACKAGED = Path(str(files("noria.editing"))) / "assets" / "planner"
PICTURE = Image.new("RGB", (32, 32), (200, 40, 40))
ASKED = [f"make the {thing} {colour}" for thing in ("tree", "ball", "house") for colour in ("red", "blue")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", name="policy")
def _policy() -> Policy:
    return PolicyPlanner.open(PACKAGED).policy


def planner_of(policy: Policy, **settings: Any) -> PolicyPlanner:
    return PolicyPlanner(policy, "packaged", max_tokens=24, **settings)


def counted(policy: Policy, monkeypatch: pytest.MonkeyPatch, *, spoiled: str = "") -> list[int]:
    """Sizes of the batches that a policy encodes; those that hold a spoiled request fail."""
    sizes: list[int] = []
    encode = policy.encode

    def count(requests: Sequence[Request]) -> Encoded:
        sizes.append(len(requests))
        if any(one.instruction == spoiled for one in requests):
            raise ModelError("an image token in the instruction", where="planner")
        return encode(requests)

    monkeypatch.setattr(policy, "encode", count)
    return sizes


async def test_all_who_wait_are_planned_together_as_they_would_be_alone(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = planner_of(policy)
    async with planner.running():
        alone = [await planner.write([PICTURE], words) for words in ASKED]
        sizes = counted(policy, monkeypatch)
        together = await asyncio.gather(*(planner.write([PICTURE], words) for words in ASKED))
    assert list(together) == alone
    assert len(set(alone)) > 1
    assert sum(sizes) == len(ASKED)
    assert len(sizes) <= 2, "what waits is one batch"


async def test_whoever_leaves_takes_nobodys_plan_along(policy: Policy) -> None:
    planner = planner_of(policy)
    async with planner.running():
        expected = await planner.write([PICTURE], ASKED[1])
        leaving, staying = [asyncio.create_task(planner.write([PICTURE], words)) for words in ASKED[:2]]
        await asyncio.sleep(0)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        assert await asyncio.wait_for(staying, 30) == expected


async def test_a_request_that_fails_spoils_no_other(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = planner_of(policy)
    counted(policy, monkeypatch, spoiled=ASKED[0])
    async with planner.running():
        spoiled, fine = await asyncio.gather(
            *(planner.write([PICTURE], words) for words in ASKED[:2]), return_exceptions=True
        )
    assert isinstance(spoiled, ModelError)
    assert isinstance(fine, str)


async def test_the_same_sample_is_the_same_plan_whoever_else_waits(policy: Policy) -> None:
    planner = planner_of(policy, temperature=1.5)
    async with planner.running():
        first, *others, again = await asyncio.gather(
            *(planner.write([PICTURE], ASKED[0], sample=sample) for sample in (0, 1, 2, 3, 0))
        )
    assert first == again
    assert any(one != first for one in others)


async def test_notes_and_every_picture_reach_the_policy(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Request] = []
    encode = policy.encode
    monkeypatch.setattr(policy, "encode", lambda requests: (seen.extend(requests), encode(requests))[1])
    planner = planner_of(policy)
    async with planner.running():
        await planner.write([PICTURE, PICTURE], "turn it", notes="it was not turned")
    (request,) = seen
    assert len(request.images) == 2
    assert request.instruction.startswith("turn it\n\nAn earlier plan")
    assert request.instruction.endswith("it was not turned")


def test_a_folder_that_is_no_planner_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NoriaError):
        PolicyPlanner.open(tmp_path)
