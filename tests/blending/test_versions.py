"""What served is kept by content: folders of before are taken over, old versions go, and news that are old stay out."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from noria.blending.plans.plans import Plans
from noria.blending.service import versions as module
from noria.blending.service.publishing import Publisher
from noria.blending.service.versions import LOOP, Versions
from noria.blending.snapshot import Setting
from noria.core.errors import DataError
from noria.core.versions.retention import prune
from tests.blending.feeds import PLANS, snapshot


def folder_of_before(state: Path) -> None:
    """Five versions as they were kept: adopted, a switch, the loop, another plan file, a damaged one."""
    (state / "snapshots").mkdir(parents=True)
    for number in range(1, 6):
        one = snapshot(PLANS, version=number, scale=number / 10, created=1e9 + 60 * number)
        one.save(state / "snapshots" / f"{number:08d}.json")
    newest = state / "snapshots" / "00000005.json"
    newest.write_bytes(newest.read_bytes()[:-40])
    base = Plans.model_validate(PLANS)
    (state / "base.json").write_text(
        json.dumps({"plans": base.model_dump(mode="json", exclude_defaults=True), "source": "ab" * 32})
    )
    (state / "switches.json").write_text(json.dumps({"everything": False, "off": ["cold"]}))
    lines = [
        {"at": 1e9, "who": "", "what": "snapshot", "version": 1, "digest": ""},
        {"at": 1e9, "who": "ann", "what": "switch off cold", "version": 2, "digest": ""},
    ]
    (state / "audit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_folder_of_before_is_taken_over_also_where_it_is_killed_meanwhile(
    tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    folder_of_before(state)
    if stop:
        publish, calls = Versions.publish, []

        def killed(self: Versions, *args: Any, **more: Any) -> None:
            calls.append(1)
            if len(calls) > stop:
                raise KeyboardInterrupt
            publish(self, *args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(Versions, "publish", killed)
            with pytest.raises(KeyboardInterrupt):
                Publisher.open(state, None, lambda: 2e9)
        assert (state / "snapshots").is_dir()
    publisher = Publisher.open(state, None, lambda: 2e9)
    assert not (state / "snapshots").exists()
    assert publisher.versions() == [4, 3, 2, 1], "the damaged one is left out"
    assert publisher.snapshot.to_json() == snapshot(PLANS, version=4, scale=0.4, created=1e9 + 240).to_json()
    assert publisher.switches.off == {"cold"}
    assert publisher.base.ids == Plans.model_validate(PLANS).ids
    assert publisher._from == "ab" * 32
    audit = publisher.audit()
    assert [(line["version"], line["who"], line["what"]) for line in audit] == [
        (2, "ann", "switch off cold"),
        (1, "", "snapshot"),
    ]
    assert audit[0]["at"] == 1e9 + 120
    assert publisher.roll_back(2, who="bob").version == 5
    publisher.close()
    again = Publisher.open(state, None, lambda: 2e9)
    assert (again.snapshot.version, again.audit()[0]["who"]) == (5, "bob")


def test_damaged_switches_of_before_are_named_and_nothing_serves(tmp_path: Path) -> None:
    state = tmp_path / "state"
    folder_of_before(state)
    (state / "switches.json").write_text('{"off": ')
    with pytest.raises(DataError, match=r"switches\.json"):
        Publisher.open(state, None, lambda: 2e9)
    (state / "switches.json").write_text("[]")
    with pytest.raises(DataError, match=r"switches\.json.*switch again"):
        Publisher.open(state, None, lambda: 2e9)
    assert len(list((state / "snapshots").iterdir())) == 5


def test_what_the_loop_published_goes_and_what_people_did_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    monkeypatch.setattr(module, "_PRUNE_EVERY", 1)
    monkeypatch.setattr(module, "prune", functools.partial(prune, grace=-1.0))
    first = snapshot(PLANS, created=1e9)
    first.save(tmp_path / "snapshot.json")
    publisher = Publisher.open(tmp_path / "state", tmp_path / "snapshot.json", lambda: 1e9)
    for number in range(1, 11):
        if number == 4:
            publisher.switch("cold", False, who=LOOP + "ann")
        settings = {"live": Setting(1.0, number / 100)}
        publisher.refresh(first.alignment, settings, based_on=publisher.snapshot.version)
    assert publisher.versions() == [12, 11, 10, 5, 1]
    assert [line["who"] for line in publisher.audit()] == ["ann", ""]
    versions = Versions(tmp_path / "state")
    assert [versions.load(number).version for number in versions.numbers()] == publisher.versions()
    assert len(list((tmp_path / "state" / "versions" / "bundles").iterdir())) == 5
    kinds = [one.kind for one in versions.store.artefacts()]
    assert (kinds.count("snapshot"), kinds.count("plans")) == (5, 1), "the same plan file is kept once"
    with pytest.raises(DataError, match="version 7 is not kept"):
        publisher.roll_back(7)


def test_old_news_do_not_overrule_a_given_snapshot_after_a_restart(tmp_path: Path) -> None:
    first = snapshot(PLANS, created=1e9)
    first.save(tmp_path / "snapshot.json")
    publisher = Publisher.open(tmp_path / "state", tmp_path / "snapshot.json", lambda: 1e9)
    publisher.adopt(snapshot(PLANS, version=40, scale=2.0, created=1e9))
    publisher.close()
    again = Publisher.open(tmp_path / "state", None, lambda: 1e9)
    assert again.refresh(first.alignment, {"live": Setting(1.0, 0.5)}, based_on=1) is None
    assert again.refresh(first.alignment, {"live": Setting(1.0, 0.5)}, based_on=40) is not None
