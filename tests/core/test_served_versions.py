"""Versions that a server answers by are opened when they are asked for, and closed where nobody uses them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from noria.core.errors import DataError
from noria.core.versions.artefacts import ArtefactStore
from noria.core.versions.served import ServedVersions, is_version


class Shelf:
    """Opens a folder as the text in it, and notes what is open."""

    def __init__(self) -> None:
        self.open: list[str] = []

    @contextlib.asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[str]:
        text = (folder / "text").read_text()
        self.open.append(text)
        yield text
        self.open.remove(text)


def kept(store: ArtefactStore, folder: Path, text: str, kind: str = "planner") -> str:
    path = folder / text / "text"
    path.parent.mkdir()
    path.write_text(text)
    return store.add(kind, path.parent).digest


def test_the_longest_unused_is_closed_and_what_is_used_stays(tmp_path: Path) -> None:
    store, shelf = ArtefactStore(tmp_path / "versions"), Shelf()
    names = [kept(store, tmp_path, text) for text in "abc"]

    async def run() -> None:
        served = ServedVersions(store.folder, "planner", shelf.opened, most=2)
        async with served.using(names[0]) as first:
            assert first == "a"
            for name in names[1:]:
                async with served.using(name):
                    pass
            assert shelf.open == ["a", "c"], "b was closed, and a is in use"
        async with served.using(names[1]):
            assert shelf.open == ["c", "b"]
        both = await asyncio.gather(*(_text(served, names[2]) for _ in range(3)))
        assert both == ["c"] * 3
        assert shelf.open == ["c", "b"]
        await served.close()
        assert shelf.open == []

    asyncio.run(run())


async def _text(served: ServedVersions[str], name: str) -> str:
    async with served.using(name) as text:
        await asyncio.sleep(0)
        return text


def test_another_kind_a_damaged_one_and_none_are_refused(tmp_path: Path) -> None:
    store, shelf = ArtefactStore(tmp_path / "versions"), Shelf()
    other, broken = kept(store, tmp_path, "x", "student"), kept(store, tmp_path, "y")
    (store.path(store.artefact(broken)) / "text").write_text("changed")

    async def run() -> None:
        served = ServedVersions(store.folder, "planner", shelf.opened)
        for name, why in ((other, "of the kind student"), (broken, "damaged"), ("0" * 64, "not there")):
            with pytest.raises(DataError, match=why):
                async with served.using(name):
                    pass
        assert shelf.open == []

    asyncio.run(run())
    assert is_version(other)
    assert not is_version(other[:63])
    assert not is_version("gpt-image")
