"""Artefacts keep their bytes for ever, bundles fit together, and a pointer moves in one step and back."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from noria.core.errors import DataError, RunError
from noria.core.storage.control import SQLiteControl, StaleVersion
from noria.core.versions.artefacts import Artefact, ArtefactStore, Bundle, Lineage
from noria.core.versions.pointers import Pointers
from noria.core.versions.retention import prune

NAMES = st.text("abc.äß 名", min_size=1, max_size=8).filter(lambda name: name.strip(". ") == name)


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(NAMES, st.binary(max_size=300), min_size=1, max_size=5), run=st.booleans())
def test_what_is_kept_comes_back_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, files, run) -> None:  # type: ignore[no-untyped-def]
    home = tmp_path_factory.mktemp("kept")
    source = folder(home / "source", {**files, "scripts/run.sh": b"#!/bin/sh\n"})
    (source / "scripts" / "run.sh").chmod(0o755 if run else 0o644)
    store = ArtefactStore(home / "store")
    artefact = store.add("skills", source)
    assert store.add("skills", source) == artefact
    store.restore(artefact.digest, home / "back")
    back = {p.relative_to(home / "back").as_posix(): p for p in (home / "back").rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in back.items()} == {
        **files,
        "scripts/run.sh": b"#!/bin/sh\n",
    }
    assert os.access(back["scripts/run.sh"], os.X_OK) == run
    assert store.add("skills", home / "back").digest == artefact.digest
    assert store.add("prompt", source).digest != artefact.digest


def test_the_first_lineage_stays(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    source = folder(tmp_path / "one", {"a": b"1"})
    first = store.add("router", source, lineage=Lineage(by="ann", seed=3, at=5.0, receipt={"accepted": True}))
    again = store.add("router", source, lineage=Lineage(by="bob"))
    assert again.lineage == first.lineage
    child = store.add(
        "router", folder(tmp_path / "two", {"a": b"2"}), lineage=Lineage((first.digest,), at=6.0)
    )
    assert [one.digest for one in store.artefacts("router")] == [first.digest, child.digest]
    assert store.artefact(child.digest).lineage.parents == (first.digest,)


@pytest.mark.parametrize("change", ["flip", "missing", "superfluous", "description"])
def test_damage_is_found(tmp_path: Path, change: str) -> None:
    store = ArtefactStore(tmp_path / "store")
    artefact = store.add("heads", folder(tmp_path / "source", {"weights": b"0123456789", "config": b"{}"}))
    path = store.path(artefact, "weights")
    if change == "flip":
        path.write_bytes(b"0123456788")
    elif change == "missing":
        path.unlink()
    elif change == "superfluous":
        path.with_name("more").write_bytes(b"")
    else:
        description = path.parent.parent / "artefact.json"
        description.write_text(description.read_text().replace("heads", "tails"))
    with pytest.raises(DataError, match=r"damaged|missing|does not belong|changed"):
        store.restore(artefact.digest, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    with pytest.raises(DataError):
        store.add("heads", tmp_path / "source")


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    linked = folder(tmp_path / "linked", {"a": b"1"})
    (linked / "b").symlink_to("/etc/passwd")
    for kind, source, words in (
        ("skills", tmp_path / "empty", "nothing to keep"),
        ("skills", linked, "link"),
        ("skills", tmp_path / "absent", "No such file"),
        ("No Kind", tmp_path / "empty", "no kind"),
    ):
        with pytest.raises((DataError, RunError), match=words):
            store.add(kind, source)
    for digest in ("", "../../etc", "g" * 64, "0" * 64):
        with pytest.raises(DataError):
            store.artefact(digest)
    assert not list((tmp_path / "store").rglob("*"))
    kept = store.add("skills", folder(tmp_path / "good", {"a": b"1"}))
    with pytest.raises(RunError, match="exists already"):
        store.restore(kept.digest, tmp_path / "good")


def test_a_bundle_has_one_artefact_a_kind_and_all_fit(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    base = store.add("model", folder(tmp_path / "m", {"w": b"base"}))
    other = store.add("model", folder(tmp_path / "o", {"w": b"other"}))
    heads = store.add("heads", folder(tmp_path / "h", {"w": b"heads"}), requires={"model": base.digest})
    bundle = store.bundle([heads.digest, base.digest])
    assert store.bundle([base.digest, heads.digest]) == bundle == store.load_bundle(bundle.digest)
    with pytest.raises(DataError, match="two artefacts of the kind model"):
        store.bundle([base.digest, other.digest])
    with pytest.raises(DataError, match=f"was made for model {base.digest[:12]}, and the bundle has none"):
        store.bundle([heads.digest])
    with pytest.raises(DataError, match=f"the bundle has {other.digest[:12]}"):
        store.replace(bundle, other.digest)
    assert store.replace(store.bundle([base.digest]), other.digest).artefacts == {"model": other.digest}


@pytest.fixture
def pointers(tmp_path: Path) -> tuple[Pointers, list[str]]:
    store = ArtefactStore(tmp_path / "store")
    bundles = [
        store.bundle([store.add("prompt", folder(tmp_path / str(n), {"text": b"%d" % n})).digest]).digest
        for n in range(4)
    ]
    return Pointers(SQLiteControl(tmp_path / "control.sqlite"), store), bundles


def test_a_pointer_moves_forward_and_back(pointers: tuple[Pointers, list[str]]) -> None:
    moving, (a, b, c, _) = pointers
    with pytest.raises(DataError, match="points to nothing yet"):
        moving.serving("champion")
    for number, bundle in enumerate((a, b, c)):
        moving.promote("champion", bundle, based_on=number, by="ann", receipt={"accepted": True})
    assert moving.serving("champion").digest == c
    assert moving.roll_back("champion", based_on=3, by="bob", reason="errors").bundle == b
    assert moving.roll_back("champion", based_on=4, by="bob").bundle == a
    with pytest.raises(DataError, match="nothing to go back to"):
        moving.roll_back("champion", based_on=5, by="bob")
    assert [move.action for move in moving.history("champion")] == ["promote"] * 3 + ["roll back"] * 2
    moving.promote("champion", c, based_on=5, by="ann")
    assert moving.roll_back("champion", based_on=6, by="bob").bundle == a


def test_of_movers_at_once_one_wins(pointers: tuple[Pointers, list[str]]) -> None:
    moving, bundles = pointers
    moving.promote("champion", bundles[0], based_on=0, by="ann")
    won: list[str] = []

    def move(bundle: str) -> None:
        try:
            moving.promote("champion", bundle, based_on=1, by=bundle)
            won.append(bundle)
        except StaleVersion:
            pass

    threads = [threading.Thread(target=move, args=(bundle,)) for bundle in bundles[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [moving.serving("champion").digest]


def test_a_damaged_bundle_is_not_promoted(pointers: tuple[Pointers, list[str]], tmp_path: Path) -> None:
    moving, (a, b, *_) = pointers
    moving.promote("champion", a, based_on=0, by="ann")
    store = ArtefactStore(tmp_path / "store")
    artefact = store.artefact(store.load_bundle(b).artefacts["prompt"])
    store.path(artefact, "text").write_bytes(b"changed")
    with pytest.raises(DataError, match="damaged"):
        moving.promote("champion", b, based_on=1, by="ann")
    assert moving.serving("champion").digest == a


# -- removal ----------------------------------------------------------------------------------------------------------


def kept(store: ArtefactStore, root: Path, name: str, *, beside: str | None = None) -> str:
    """A bundle of an artefact of its own, and of one that others have, too."""
    digests = [store.add("router", folder(root / name, {"a": name.encode()})).digest]
    if beside is not None:
        digests.append(store.add("skills", folder(root / beside, {"b": beside.encode()})).digest)
    return store.bundle(digests).digest


def test_what_nothing_names_is_removed_and_all_else_stays(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    pointers = Pointers(control := SQLiteControl(tmp_path / "control.sqlite"), store)
    bundles = [kept(store, tmp_path, f"v{n}", beside="shared") for n in range(6)]
    for number, bundle in enumerate(bundles):
        by = "ann" if number == 1 else "machine"
        pointers.promote("champion", bundle, based_on=number, by=by)
    assert control.thin("pointer", "champion", keep=2, by="machine") == 2
    named = [move.bundle for move in pointers.history("champion")]
    assert named == [bundles[0], bundles[1], *bundles[4:]], "the first, the last ones, and what ann did"
    assert prune(store, named).artefacts == 0, "all of it was touched just now"
    loose = store.add("heads", folder(tmp_path / "loose", {"c": b"123"})).digest
    removal = prune(store, named, artefacts=[loose], grace=-1.0)
    assert (removal.bundles, removal.artefacts) == (2, 2)
    assert removal.bytes > 0
    for bundle in named:
        for digest in store.load_bundle(bundle).artefacts.values():
            store.verify(store.artefact(digest))
    store.artefact(loose)
    for bundle in bundles[2:4]:
        with pytest.raises(DataError, match="not there"):
            store.load_bundle(bundle)
    assert prune(store, named, grace=-1.0).artefacts == 1, "the loose one"
    assert kept(store, tmp_path, "v2", beside="shared") == bundles[2], (
        "the same content has the same name again"
    )


@pytest.mark.parametrize("point", range(9))
def test_a_removal_that_is_killed_leaves_each_version_whole_or_gone(
    tmp_path: Path, point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtefactStore(tmp_path / "store")
    bundles = [kept(store, tmp_path, f"v{n}", beside="shared") for n in range(4)]
    steps = 0

    def counting(real: Any) -> Any:
        def step(*args: Any, **more: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > point:
                raise KeyboardInterrupt
            return real(*args, **more)

        return step

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "rename"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, counting(getattr(owner, name)))
        with contextlib.suppress(KeyboardInterrupt):
            prune(store, bundles[:1], grace=-1.0)
    for artefact in store.artefacts():
        store.verify(artefact)
    for path in (tmp_path / "store" / "bundles").glob("[!.]*"):
        for digest in store.load_bundle(path.stem).artefacts.values():
            store.verify(store.artefact(digest))
    prune(store, bundles[:1], grace=-1.0)
    assert len(store.artefacts()) == 2
    assert sorted(path.name for path in (tmp_path / "store").rglob("*") if path.name[0] == ".") == []


@pytest.mark.parametrize("method", ["bundles", "artefacts"])
def test_a_list_is_without_what_is_removed_while_it_is_made(tmp_path: Path, method: str) -> None:
    plain = ArtefactStore(tmp_path / "store")
    _, *left = sorted(kept(plain, tmp_path, name) for name in "abc")

    class Raced(ArtefactStore):
        """Versions are removed after their names were listed, before the first is read."""

        def load_bundle(self, digest: str) -> Bundle:
            prune(plain, left, grace=-1.0)
            return super().load_bundle(digest)

        def artefact(self, digest: str) -> Artefact:
            prune(plain, left, grace=-1.0)
            return super().artefact(digest)

    assert len(getattr(plain, method)()) == 3
    assert len(getattr(Raced(plain.folder), method)()) == 2
    damaged = plain.folder / "bundles" / f"{left[0]}.json"
    damaged.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        plain.bundles()


def test_a_version_that_is_touched_at_the_last_moment_stays(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    pointers = Pointers(SQLiteControl(tmp_path / "control.sqlite"), store)
    bundle, other = kept(store, tmp_path, "old"), kept(store, tmp_path, "older")
    for path in (tmp_path / "store").glob("*/*"):
        os.utime(path, (1e9, 1e9))
    pointers.promote("champion", bundle, based_on=0, by="ann")  # a prune has read the pointers before
    removal = prune(store, [])
    assert (removal.bundles, removal.artefacts) == (1, 1)
    store.verify(store.artefact(store.load_bundle(bundle).artefacts["router"]))
    with pytest.raises(DataError):
        store.load_bundle(other)
