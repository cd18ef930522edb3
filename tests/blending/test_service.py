"""The service over real sockets: every form of request, every account, every refusal, and snapshots that change."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noria.blending import Blender, Candidates, Plans, Snapshot
from noria.blending.service import service as service_module
from noria.blending.service.config import NearlineConfig, ServeConfig
from noria.blending.service.journal.events import Decision, Impression, Outcome, Sample, unpack
from noria.blending.service.journal.journal import Journal, read_journal
from noria.blending.service.process import open_feed
from noria.blending.service.publishing import Publisher
from noria.blending.service.service import Feed
from noria.blending.service.traffic import _share as lot_share
from noria.blending.service.versions import Versions
from noria.blending.service.wire.requests import ARROW
from noria.core.errors import install_command
from noria.core.service.hosting import running
from tests.blending.feeds import BEARER, PLANS, TOKEN, arrow, as_columns, ask, columns, rows, saved, snapshot

CONFIG = ServeConfig(control=0.0, sample=1.0, poll=0.05, nearline=NearlineConfig(on=False))


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[tuple[str, Feed]]:
    with (
        open_feed(saved(tmp_path), tmp_path / "state", CONFIG) as opened,
        running(opened.service(token=TOKEN, access_log=False)) as url,
    ):
        yield url, opened


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that only ranks."""
    folder = tmp_path_factory.mktemp("feed")
    with open_feed(saved(folder), None, CONFIG) as opened, running(opened.service(token=None)) as address:
        yield address


def wanted(given: dict[str, Any], size: int, found: Snapshot | None = None) -> Any:
    return Blender(found or snapshot()).rank(given, size, at=0.0)


def events(feed: Feed) -> list[Any]:
    assert feed.journal is not None
    return [one for frame in read_journal(feed.journal.folder) for one in unpack(frame.payload)]


# -- the three forms --------------------------------------------------------------------------------------------------


def test_rows_of_metarank_are_ranked_with_their_accounts(url: str) -> None:
    given = columns(300)
    status, told = ask(
        url, "POST", "/rank", rows(given, id="r1", user="u", timestamp="1700000000000", size=20)
    )
    assert status == 200
    ranked = wanted(given, 20)
    assert [row["item"] for row in told["items"]] == [given["item"][row] for row in ranked.order]
    for place, row in enumerate(told["items"]):
        assert row["score"] == ranked.score[place]
        parts = row["value"] + sum(row.get("boost", {}).values()) + row.get("guard", 0.0)
        assert parts == pytest.approx(row["score"], abs=1e-12)
    assert any("guard" in row for row in told["items"])
    assert any(len(row.get("boost", {})) > 1 for row in told["items"])
    assert (told["id"], told["version"], told["snapshot"]) == ("r1", 1, snapshot().digest)
    assert told["took"] >= 0


@pytest.mark.parametrize("coded", [False, True], ids=["names", "codes"])
def test_columns_are_ranked(url: str, coded: bool) -> None:
    given: dict[str, Any] = columns(300)
    ranked = wanted(given, 20)
    if coded:
        names = sorted(set(given["source"]))
        given |= {"source": {"names": names, "codes": [names.index(one) for one in given["source"]]}}
    status, told = ask(url, "POST", "/rank", as_columns(given, size=20))
    assert status == 200
    assert told["items"] == [given["item"][row] for row in ranked.order]
    assert told["score"] == ranked.score.tolist()
    assert told["value"] == ranked.value.tolist()
    total = np.array(told["value"]) + np.array(told["guard"])
    for boost in told["boost"].values():
        total[boost["places"]] += boost["amounts"]
    np.testing.assert_allclose(total, told["score"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("coded", [False, True], ids=["names", "dictionary"])
def test_arrow_is_ranked(url: str, coded: bool) -> None:
    given: dict[str, Any] = columns(300)
    ranked = wanted(given, 20)
    if coded:
        given |= {"source": pa.array(given["source"]).dictionary_encode()}
    status, content = ask(url, "POST", "/rank", arrow(given, size=20, id="a"), {"content-type": ARROW})
    assert status == 200
    table = pa.ipc.open_stream(content).read_all()
    assert table["item"].to_pylist() == [given["item"][row] for row in ranked.order]
    assert table["score"].to_pylist() == ranked.score.tolist()
    head = json.loads(table.schema.metadata[b"answer"])
    assert (head["id"], head["version"]) == ("a", 1)
    boosts = [table[name].to_numpy() for name in table.column_names if name.startswith("boost.")]
    total = table["value"].to_numpy() + sum(boosts) + table["guard"].to_numpy()
    np.testing.assert_allclose(total, table["score"].to_numpy(), rtol=0, atol=1e-12)


def test_kinds_of_arrow_columns(url: str) -> None:
    given = {
        "item": pa.array([3, 1, 2]),
        "score": pa.array([1, 2, None], pa.int16()),
        "source": pa.chunked_array([["live"], ["organic", "live"]]),
        "age": pa.array([5.0, None, 90.0], pa.float32()),
        "tags": pa.array([["sport", "news"], None, []], pa.large_list(pa.string())),
        "fresh": pa.array([True, False, True]),
        "none": pa.nulls(3),
    }
    status, content = ask(url, "POST", "/rank", arrow(given, size=3), {"content-type": ARROW})
    assert status == 200
    table = pa.ipc.open_stream(content).read_all()
    assert table["item"].to_pylist() == [1, 3]
    assert table["boost.sport"].to_pylist() == [0.0, pytest.approx(0.1 * 0.01 + 0.05)]
    for name, bad in (
        ("item", pa.array([1.5, 2.5, 3.5])),
        ("item", pa.array(["a", None, "b"])),
        ("tags", pa.array([["a", None], [], []])),
        ("age", pa.array([1, 2, 3], pa.timestamp("s"))),
        ("source", pa.array([1.0, 2.0, 3.0])),
    ):
        assert ask(url, "POST", "/rank", arrow(given | {name: bad}), {"content-type": ARROW})[0] == 400


def test_fields_of_the_request_hold_for_all_of_its_items(url: str) -> None:
    given = columns(50)
    del given["age"]
    for fields in ({"age": 5.0}, [{"name": "age", "value": 5}]):
        _, told = ask(url, "POST", "/rank", rows(given, size=50, fields=fields))
        assert told["items"]
        assert all("cold" in row["boost"] for row in told["items"])
    own = columns(50)
    _, told = ask(url, "POST", "/rank", rows(own, size=50, fields={"age": 5.0}))
    assert not all("cold" in row.get("boost", {}) for row in told["items"]), "an item's own field is nearer"


def test_explain_tells_every_number_that_made_a_score(url: str) -> None:
    given = columns(100)
    _, told = ask(url, "POST", "/rank?explain=true", rows(given, size=10))
    for place, row in enumerate(told["items"]):
        why = row["explain"]
        at = given["item"].index(row["item"])
        assert (why["rank"], why["raw"], why["source"]) == (place, given["score"][at], given["source"][at])
        assert why["aligner"] == {"key": ["*", why["source"], "*"], "stands_in": False}
        for plan in why["plans"]:
            assert plan["amount"] == pytest.approx(plan["weight"] * why["value"] + plan["bias"], abs=1e-15)
        total = why["value"] + sum(plan["amount"] for plan in why["plans"]) + why["guard"]
        assert total == pytest.approx(row["score"], abs=1e-12)
    _, whole = ask(url, "POST", "/rank?explain=true", as_columns(given, size=10))
    assert [one["plans"] for one in whole["explain"]] == [row["explain"]["plans"] for row in told["items"]]


def test_scenes_and_defaults(url: str) -> None:
    _, told = ask(url, "POST", "/rank/home", as_columns(columns(80)))
    assert len(told["items"]) == CONFIG.size
    assert told["id"]
    assert ask(url, "POST", "/rank/" + "x" * 600, as_columns(columns(3)))[0] == 400


# -- what may come ----------------------------------------------------------------------------------------------------


def test_an_empty_list_is_an_empty_answer(url: str) -> None:
    empty: dict[str, Any] = {name: [] for name in columns(1)}
    for body in (rows(empty), as_columns(empty)):
        status, told = ask(url, "POST", "/rank", body)
        assert (status, told["items"]) == (200, [])
    kinds = {"item": pa.string(), "score": pa.float64(), "source": pa.string(), "age": pa.float64()}
    nothing = {name: pa.array([], kind) for name, kind in kinds.items()}
    status, content = ask(url, "POST", "/rank", arrow(nothing), {"content-type": ARROW})
    assert (status, len(pa.ipc.open_stream(content).read_all())) == (200, 0)


def metric(url: str, name: str) -> float:
    lines = ask(url, "GET", "/metrics")[1].decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(f"{name} "))


def test_scores_that_are_none_are_left_out_and_counted(url: str) -> None:
    reasons = ("score not finite", "source without alignment", "source missing")
    names = [f'noria_blending_dropped_total{{reason="{reason}"}}' for reason in reasons]
    before = [metric(url, name) for name in names]
    given: dict[str, Any] = columns(30)
    broken = {0: math.nan, 1: math.inf, 2: -math.inf, 3: None}
    for row, value in broken.items():
        given["score"][row] = value
    given["source"][4], given["source"][5] = "nobody", None
    status, content = ask(url, "POST", "/rank", arrow(given, size=30), {"content-type": ARROW})
    assert status == 200
    table = pa.ipc.open_stream(content).read_all()
    assert not set(table["item"].to_pylist()) & set(given["item"][:6])
    assert len(table) == 24
    dropped = json.loads(table.schema.metadata[b"answer"])["dropped"]
    assert dropped == {"score not finite": 4, "source without alignment": 1, "source missing": 1}
    given["score"][:3] = [None] * 3
    for body in (rows(given, size=30), as_columns(given, size=30)):
        _, told = ask(url, "POST", "/rank", body)
        assert told["dropped"] == dropped
    assert [metric(url, name) - old for name, old in zip(names, before, strict=True)] == [12, 3, 3]


TWICE = columns(3) | {"item": ["a", "b", "a"]}
SHORT = columns(3) | {"age": [1.0]}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not a request"),
        (b"[]", "not a request"),
        (b'{"items": [', "not a request"),
        (b'{"items": [{"id": "a", "score": NaN}]}', "NaN is not JSON: send null"),
        (b'{"items": [{"id": "a", "score": "1"}]}', "not a request"),
        (b'{"items": [{"score": 1}]}', "missing required field `id`"),
        (b'{"id": "a"}', "either `items` or `columns`"),
        (b'{"items": [], "columns": {}}', "either `items` or `columns`"),
        (b"[" * 100_000, "not a request"),
        (rows(TWICE), "'a' comes twice"),
        (as_columns(TWICE), "'a' comes twice"),
        (rows(columns(2) | {"item": [1, "1"]}), "ids of two kinds"),
        (as_columns(columns(2) | {"item": [1, "1"]}), "ids of two kinds"),
        (as_columns(SHORT), "1 values for 3 items"),
        (as_columns({"item": ["a"]}), "it is absent"),
        (as_columns({"item": ["a"], "score": [1.0], "source": "organic"}), "not a list"),
        (as_columns({"item": [["a"]], "score": [1.0], "source": ["organic"]}), "an id is text"),
        (as_columns({"item": ["a"], "score": ["x"], "source": ["organic"]}), "not numbers"),
        (as_columns({"item": ["a"], "score": [True], "source": ["organic"]}), "not numbers"),
        (as_columns({"item": ["a"], "score": [1], "source": {"names": ["x"], "codes": [1]}}), "beyond the 1 names"),
        (as_columns({"item": ["a"], "score": [1], "source": {"names": ["x", "x"], "codes": [0]}}), "distinct"),
        (as_columns({"item": ["a"], "score": [1], "source": {"names": ["x"], "codes": [0.5]}}), "whole numbers"),
        (as_columns({"item": ["a"], "score": [1], "source": {"names": ["x"]}}), "not {names, codes}"),
        (as_columns(columns(3), size=-1), "a list of -1"),
        (as_columns(columns(3), size=10**6), "a list of 1000000"),
        (as_columns(columns(3), timestamp="yesterday"), "is no time"),
        (as_columns(columns(3), id="x" * 600), "1 to 512 characters"),
        (as_columns(columns(3), fields={"city": {"a": 1}}), "values of kinds dict"),
        (as_columns(columns(3) | {f"c{n}": [1, 2, 3] for n in range(300)}), "at most 256"),
        (rows({"item": ["a"], "score": [1.0], "source": ["organic"], "version": [3]}), "may not be called"),
    ],
)  # fmt: skip
def test_what_cannot_be_ranked_is_refused_in_one_line(url: str, body: bytes, told: str) -> None:
    status, answer = ask(url, "POST", "/rank", body)
    assert status == 400
    assert told in answer["error"]["message"]


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_a_few_bytes_of_arrow_cannot_stand_for_gigabytes(url: str, kind: str) -> None:
    given = {"item": [f"{n}" for n in range(2000)], "score": [1.0] * 2000, "source": ["organic"] * 2000}
    plain = arrow(given, size=1)
    packed = arrow(given, size=1, options=pa.ipc.IpcWriteOptions(compression=kind))
    assert len(packed) < len(plain)
    status, answer = ask(url, "POST", "/rank", packed, {"content-type": ARROW})
    assert status == 400
    assert "compressed" in answer["error"]["message"]
    coded = given | {"source": pa.array(given["source"]).dictionary_encode()}
    packed = arrow(coded, size=1, options=pa.ipc.IpcWriteOptions(compression=kind))
    assert ask(url, "POST", "/rank", packed, {"content-type": ARROW})[0] == 400


def test_arrow_that_lies_is_refused(url: str) -> None:
    good = arrow(columns(50), size=5)
    rng = np.random.default_rng(0)
    statuses = set()
    for _ in range(150):
        bad = bytearray(good)
        for place in rng.integers(8, 1500, size=3).tolist():
            bad[place] = int(rng.integers(256))
        statuses.add(ask(url, "POST", "/rank", bytes(bad), {"content-type": ARROW})[0])
    assert statuses <= {200, 400}
    assert 400 in statuses
    for body in (b"", good[:100], good[:-30], b"ARROW1" + good):
        assert ask(url, "POST", "/rank", body, {"content-type": ARROW})[0] in (200, 400)
    assert ask(url, "GET", "/health")[0] == 200


def test_a_hundred_thousand_candidates(url: str) -> None:
    given = columns(100_000)
    ranked = wanted(given, 100)
    wide = {"content-type": ARROW}
    _, content = ask(url, "POST", "/rank", arrow(given, size=100), wide)
    assert pa.ipc.open_stream(content).read_all()["score"].to_pylist() == ranked.score.tolist()
    _, told = ask(url, "POST", "/rank", as_columns(given, size=100))
    assert told["score"] == ranked.score.tolist()
    item = [f"{n}" for n in range(100_001)]
    beyond = {"item": item, "score": [1.0] * len(item), "source": ["live"] * len(item)}
    few = json.dumps({"items": [{"id": one} for one in item]}).encode()
    for body, kind in ((arrow(beyond), ARROW), (as_columns(beyond), "a/json"), (few, "a/json")):
        status, answer = ask(url, "POST", "/rank", body, {"content-type": kind})
        assert status == 400
        assert "100,001" in answer["error"]["message"]


def test_arrow_without_pyarrow_is_refused_and_json_goes_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = arrow(columns(5), size=5)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, answer = ask(url, "POST", "/rank", body, {"content-type": ARROW})
    assert status == 400
    assert install_command("blending") in answer["error"]["message"]
    assert ask(url, "POST", "/rank", as_columns(columns(5)))[0] == 200


def test_a_body_beyond_the_bound(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"body_mib": 0.01})
    with open_feed(saved(tmp_path), None, config) as feed, running(feed.service(token=None)) as url:
        assert ask(url, "POST", "/rank", as_columns(columns(10)))[0] == 200
        assert ask(url, "POST", "/rank", as_columns(columns(1000)))[0] == 413


# -- the log ----------------------------------------------------------------------------------------------------------


def test_what_was_decided_shown_and_came_of_it_is_in_the_log(feed: tuple[str, Feed]) -> None:
    url, opened = feed
    given = columns(40)
    given["version"] = ["m1" if n % 2 else None for n in range(40)]
    _, told = ask(url, "POST", "/rank/home", as_columns(given, id="r1", user="u", size=10), BEARER)
    assert told["logged"]
    status, taken = ask(url, "POST", "/impressions", {"request": "r1", "items": told["items"][:3]}, BEARER)
    assert (status, taken) == (200, {"accepted": 1, "skewed": 0})
    outcomes = [
        {"request": "r1", "item": told["items"][0], "watch": 12.5, "duration": 30, "gain": 2, "timestamp": 1},
        {"request": "r1", "item": told["items"][1]},
    ]
    assert ask(url, "POST", "/outcomes", outcomes, BEARER)[1] == {"accepted": 2, "skewed": 1}
    found = events(opened)
    assert [type(one) for one in found] == [Decision, Sample, Impression, Outcome, Outcome]
    for kind, number in (("decision", 1), ("sample", 1), ("impression", 1), ("outcome", 2)):
        assert metric(url, f'noria_blending_events_total{{kind="{kind}"}}') == number
    decision, sample, impression, outcome, _ = found
    ranked = wanted(given, 10)
    assert (decision.request, decision.scene, decision.user, decision.control) == ("r1", "home", "u", False)
    assert decision.items == told["items"]
    for name, column in (("score", np.array(given["score"])[ranked.order]), ("value", ranked.value)):
        assert decision.column(name).tolist() == column.tolist()
    assert decision.column("total").tolist() == ranked.score.tolist()
    assert decision.masks.tolist() == ranked.mask.tolist()
    assert decision.names("source") == [given["source"][row] for row in ranked.order]
    assert decision.names("model") == [given["version"][row] or "" for row in ranked.order]
    assert impression.items == told["items"][:3]
    assert (outcome.watch, outcome.duration, outcome.gain, outcome.client) == (12.5, 30, 2, 1)
    table = pa.ipc.open_stream(sample.candidates).read_all()
    again = Blender(snapshot()).rank(
        Candidates.of({name: table[name].to_pylist() for name in table.column_names}), 10, at=0.0
    )
    assert again.score.tolist() == ranked.score.tolist(), "a sampled request is ranked again to the bit"


def test_a_list_may_count_as_shown_at_once(feed: tuple[str, Feed]) -> None:
    url, opened = feed
    _, told = ask(url, "POST", "/rank", as_columns(columns(40), size=10, shown=4), BEARER)
    (decision,) = [one for one in events(opened) if isinstance(one, Decision)]
    assert (decision.request, decision.shown) == (told["id"], 4)


def test_nobody_without_the_token_writes(feed: tuple[str, Feed]) -> None:
    url, opened = feed
    _, told = ask(url, "POST", "/rank", as_columns(columns(40)))
    assert not told["logged"]
    assert ask(url, "POST", "/rank", as_columns(columns(40), shown=1))[0] == 401
    for path, body in (
        ("/impressions", {"request": "r", "items": ["a"]}),
        ("/outcomes", {"request": "r", "item": "a"}),
        ("/switches", {"on": False}),
        ("/plans", PLANS),
        ("/snapshots", snapshot(version=9).to_json()),
        ("/rollback", {"version": 1}),
    ):
        assert ask(url, "POST", path, body)[0] == 401
    assert events(opened) == []
    assert opened.publisher.snapshot.version == 1


def test_without_a_log_nothing_is_taken_in(tmp_path: Path) -> None:
    with open_feed(saved(tmp_path), None, CONFIG) as feed, running(feed.service(token=TOKEN)) as url:
        for path, body in (
            ("/impressions", {"request": "r", "items": ["a"]}),
            ("/outcomes", {"request": "r", "item": "a"}),
            ("/rank", json.loads(as_columns(columns(3), shown=1))),
        ):
            assert ask(url, "POST", path, body, BEARER)[0] == 409
        assert ask(url, "POST", "/rank", as_columns(columns(3)), BEARER)[1]["logged"] is False


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/impressions", b"{}"),
        ("/impressions", {"request": "r", "items": "a"}),
        ("/impressions", {"request": "", "items": ["a"]}),
        ("/impressions", {"request": "r", "items": ["x" * 600]}),
        ("/outcomes", {"request": "r"}),
        ("/outcomes", {"request": "r", "item": "a", "watch": "long"}),
        ("/outcomes", b'{"request": "r", "item": "a", "watch": NaN}'),
        ("/outcomes", [{"request": "r", "item": "a"}] * 10_001),
    ],
)
def test_events_that_cannot_be_meant_are_refused(feed: tuple[str, Feed], path: str, body: Any) -> None:
    url, opened = feed
    assert ask(url, "POST", path, body, BEARER)[0] == 400
    assert events(opened) == []


def test_a_clock_that_goes_back_does_not_take_the_events_along(tmp_path: Path) -> None:
    times = iter([100.0, 200.0, 150.0, 300.0])
    with open_feed(saved(tmp_path), tmp_path / "s", CONFIG) as feed:
        feed.traffic._clock = lambda: next(times)
        assert [feed.traffic.now() for _ in range(4)] == [100.0, 200.0, 200.0, 300.0]
        assert feed.registry.get_sample_value("noria_blending_clock_backward_total") == 1


def test_the_control_bucket_is_ranked_by_value_alone(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"control": 0.3})
    with open_feed(saved(tmp_path), None, config) as feed, running(feed.service(token=None)) as url:
        given = columns(60)
        seen = {True: 0, False: 0}
        for n in range(60):
            _, told = ask(url, "POST", "/rank", as_columns(given, id=f"r{n}", user=f"u{n}", size=60))
            seen[told["control"]] += 1
            if told["control"]:
                assert told["score"] == told["value"]
                assert told["boost"] == {}
            again = ask(url, "POST", "/rank", as_columns(given, id=f"s{n}", user=f"u{n}", size=60))[1]
            assert again["control"] == told["control"], "a user stays in one bucket"
    assert 5 <= seen[True] <= 35


def test_who_is_sampled_says_nothing_of_who_is_in_the_control_bucket() -> None:
    names = [f"request-{n:06d}" for n in range(20_000)]
    control, sample = (np.array([lot_share(lot, name) for name in names]) for lot in (b"control", b"sample"))
    for share in (control, sample):
        np.testing.assert_allclose(
            np.bincount((10 * share).astype(int), minlength=10) / len(names), 0.1, atol=0.01
        )
    assert abs(np.corrcoef(control, sample)[0, 1]) < 0.03
    assert 0.4 < (control[sample < 0.05] < 0.5).mean() < 0.6


# -- what serves ------------------------------------------------------------------------------------------------------


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    done = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if true():
            return
        done.wait(0.02)
    raise AssertionError("it never came")


def test_a_new_snapshot_file_is_served_and_a_bad_one_is_not(feed: tuple[str, Feed], tmp_path: Path) -> None:
    url, opened = feed
    path = tmp_path / "snapshot.json"
    snapshot(version=7, scale=0.5).save(path)
    wait_for(lambda: ask(url, "GET", "/status")[1]["version"] == 7)
    for bad in (
        path.read_bytes()[:-200],
        b"",
        path.read_bytes().replace(b'"mean_value": 0.2', b'"mean_value": 0.3'),
        b"{}",
    ):
        before = opened.publisher.rejected
        path.write_bytes(bad)
        wait_for(lambda before=before: opened.publisher.rejected > before)
        for _ in range(5):
            opened.look()
        assert opened.publisher.rejected == before + 1, "one bad file is refused once"
        told = ask(url, "GET", "/status")[1]
        assert (told["version"], told["snapshot"]) == (7, snapshot(version=7, scale=0.5).digest)
        assert told["trouble"]
    assert b"noria_blending_snapshots_rejected 4.0" in ask(url, "GET", "/metrics")[1]
    snapshot(version=3, scale=0.7).save(path)
    wait_for(lambda: ask(url, "GET", "/status")[1]["version"] == 8)
    assert ask(url, "GET", "/status")[1]["trouble"] is None
    os.utime(path)
    opened.look()
    assert opened.publisher.snapshot.version == 8, "a file that was touched is no new snapshot"
    assert ask(url, "GET", "/snapshot")[1]["alignment"]["mean_value"] == pytest.approx(0.28)


def test_a_snapshot_that_does_not_rank_never_serves(
    feed: tuple[str, Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, opened = feed
    rank = Blender.rank

    def broken(self: Blender, *given: Any, **more: Any) -> Any:
        if self.snapshot.version == 5:
            raise ZeroDivisionError("in a corner of it")
        found = rank(self, *given, **more)
        return replace(found, guard=found.guard + 1.0) if self.snapshot.version == 6 else found

    monkeypatch.setattr(Blender, "rank", broken)
    for version, why in ((5, "does not rank"), (6, "accounts do not close")):
        status, told = ask(url, "POST", "/snapshots", snapshot(version=version).to_json(), BEARER)
        assert status == 400
        assert why in told["error"]["message"]
        assert opened.publisher.snapshot.version == 1


def test_every_answer_during_a_swap_is_of_one_snapshot(feed: tuple[str, Feed]) -> None:
    """Requests run while versions change under them; each account is that of the version that it names."""
    url, _ = feed
    given = columns(200)
    known = {1: wanted(given, 30)}
    answers: list[Any] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(ask(url, "POST", "/rank", as_columns(given, size=30))[1])

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    for version in range(2, 25):
        found = snapshot(version=version, scale=1 + version / 10)
        known[version] = wanted(given, 30, found)
        assert ask(url, "POST", "/snapshots", found.to_json(), BEARER)[0] == 200
    stop.set()
    for one in clients:
        one.join()
    assert len({told["version"] for told in answers}) > 5
    for told in answers:
        ranked = known[told["version"]]
        assert told["score"] == ranked.score.tolist()
        assert told["value"] == ranked.value.tolist()
        for plan, boost in told["boost"].items():
            bit = ranked.plans.index(plan)
            assert boost["amounts"] == ranked.contributions[boost["places"], bit].tolist()
    assert len(answers) > 30


def test_a_plan_is_switched_off_and_stays_off(tmp_path: Path) -> None:
    given = columns(100)

    def boosts(url: str) -> set[str]:
        return set(ask(url, "POST", "/rank", as_columns(given, size=100))[1]["boost"])

    def opened() -> Any:
        return open_feed(tmp_path / "snapshot.json", tmp_path / "state", CONFIG)

    saved(tmp_path)
    with opened() as feed, running(feed.service(token=TOKEN)) as url:
        assert boosts(url) == {"live", "cold", "old", "sport"}
        body = {"plan": "cold", "on": False}
        status, told = ask(url, "POST", "/switches", body, BEARER | {"x-actor": "ann"})
        assert (status, told["version"]) == (200, 2)
        assert boosts(url) == {"live", "old", "sport"}
        assert ask(url, "POST", "/switches", {"plan": "none", "on": False}, BEARER)[0] == 404
        assert ask(url, "POST", "/switches", {"plan": 3, "on": False}, BEARER)[0] == 400
    with opened() as feed, running(feed.service(token=TOKEN)) as url:
        assert boosts(url) == {"live", "old", "sport"}, "over a restart"
        snapshot(version=5, scale=1.1).save(tmp_path / "snapshot.json")
        wait_for(lambda: feed.publisher.snapshot.version == 5)
        assert boosts(url) == {"live", "old", "sport"}, "over a new snapshot"
        assert ask(url, "POST", "/switches", {"on": False}, BEARER)[0] == 200
        assert boosts(url) == set()
        told = ask(url, "GET", "/status")[1]
        assert told["all_off"]
        assert [plan["on"] for plan in told["plans"]] == [False] * 4
        assert ask(url, "POST", "/switches", {"on": True}, BEARER)[0] == 200
        assert boosts(url) == {"live", "old", "sport"}, "all on again is not one on again"
        assert ask(url, "POST", "/switches", {"plan": "cold", "on": True}, BEARER)[0] == 200
        assert boosts(url) == {"live", "cold", "old", "sport"}
        audit = ask(url, "GET", "/snapshots")[1]["audit"]
    assert audit[-2]["who"] == "ann"
    assert [line["what"] for line in audit] == [
        "switch on cold",
        "switch on all plans",
        "switch off all plans",
        "snapshot",
        "switch off cold",
        "snapshot",
    ]


def test_another_plan_file_is_tried_and_then_served(feed: tuple[str, Feed]) -> None:
    url, _ = feed
    for n in range(20):
        ask(url, "POST", "/rank", as_columns(columns(100, n), size=20))
    text = b"plans:\n- {id: live, when: 'source == \"live\"', bias: 0.4}\n- {id: fresh, when: age < 1, weight: 1}\n"
    status, told = ask(url, "POST", "/plans?dry=true", text, BEARER)
    assert status == 200
    assert told["requests"] == 20
    share = told["plans"]["live"]["share"]
    assert share["after"] > share["before"]
    assert share["change"][1] > 0
    assert told["plans"]["cold"]["share"]["after"] == 0
    assert told["value"]["change"][0] < 0, "a boost costs value"
    assert ask(url, "GET", "/status")[1]["version"] == 1
    assert ask(url, "POST", "/plans", text, BEARER)[0] == 200
    assert [plan["id"] for plan in ask(url, "GET", "/status")[1]["plans"]] == ["live", "fresh"]
    for bad, why in (
        (b"plans: [{id: a, when: 'age <'}]", "body:1"),
        (b"plans: [{id: a}, {id: a}]", "there twice"),
        (b"plan: []", "did you mean 'plans'"),
        (b"\xff", "not UTF-8"),
        (b"plans: [", "not YAML"),
    ):
        status, told = ask(url, "POST", "/plans", bad, BEARER)
        assert status == 400
        assert why in told["error"]["message"]


def test_a_version_is_rolled_back_to(feed: tuple[str, Feed]) -> None:
    url, _ = feed
    first = ask(url, "GET", "/snapshot")[1]
    ask(url, "POST", "/plans", b"plans: []", BEARER)
    assert ask(url, "POST", "/rollback", {"version": 99}, BEARER)[0] == 404
    status, told = ask(url, "POST", "/rollback", {"version": 1}, BEARER)
    assert (status, told["version"]) == (200, 3)
    now = ask(url, "GET", "/snapshot")[1]
    assert now["plans"] == first["plans"]
    assert now["alignment"] == first["alignment"]


def test_a_damaged_version_is_not_started_with(tmp_path: Path) -> None:
    saved(tmp_path)
    state = tmp_path / "state"
    with open_feed(tmp_path / "snapshot.json", state, CONFIG) as feed:
        feed.publisher.switch("cold", False)
        feed.publisher.switch("old", False)
    newest = Versions(state).file(3)
    newest.write_bytes(newest.read_bytes()[:-50])
    with open_feed(tmp_path / "snapshot.json", state, CONFIG) as feed:
        assert feed.publisher.snapshot.version == 2
        assert feed.publisher.rejected == 1
        assert feed.publisher.switch("cold", True).version == 4, "a number is not used twice"
    (tmp_path / "snapshot.json").write_text("{")
    with open_feed(tmp_path / "snapshot.json", state, CONFIG) as feed:
        assert feed.publisher.snapshot.version == 4
        assert "not JSON" in str(feed.publisher.trouble)
    with open_feed(None, state, CONFIG) as feed:
        assert feed.publisher.snapshot.version == 4


def test_an_old_snapshot_goes_on_with_an_alarm(tmp_path: Path) -> None:
    plans = PLANS | {"guards": {"max_age": 60.0}}
    clock = [1e9]
    snapshot(plans, created=1e9).save(tmp_path / "s.json")
    with (
        open_feed(tmp_path / "s.json", None, CONFIG, clock=lambda: clock[0]) as feed,
        running(feed.service(token=None)) as url,
    ):
        assert "stale" not in ask(url, "POST", "/rank", as_columns(columns(5)))[1]
        clock[0] += 61
        status, told = ask(url, "POST", "/rank", as_columns(columns(5)))
        assert (status, told["stale"]) == (200, True)
        metrics = ask(url, "GET", "/metrics")[1]
        assert b"noria_blending_snapshot_stale 1.0" in metrics
        assert b"noria_blending_snapshot_age_seconds 61.0" in metrics


def test_a_full_disk_changes_nothing(feed: tuple[str, Feed], monkeypatch: pytest.MonkeyPatch) -> None:
    from noria.core.errors import RunError

    url, opened = feed

    def full(self: Snapshot, path: Path) -> None:
        raise RunError("no space", where="x")

    monkeypatch.setattr(Snapshot, "save", full)
    status, told = ask(url, "POST", "/switches", {"plan": "cold", "on": False}, BEARER)
    assert (status, told["error"]["code"]) == (507, "not_kept")
    assert "x" not in told["error"]["message"].split()
    assert opened.publisher.snapshot.version == 1
    assert opened.publisher.switches.off == frozenset()


def test_schedules_go_by_the_services_clock(tmp_path: Path) -> None:
    plans = {"plans": [{"id": "evening", "bias": 1.0, "schedule": {"hours": "18:00-23:00"}}]}
    clock = [18 * 3600.0 - 1]
    snapshot(plans).save(tmp_path / "s.json")
    with (
        open_feed(tmp_path / "s.json", None, CONFIG, clock=lambda: clock[0]) as feed,
        running(feed.service(token=None)) as url,
    ):
        late = as_columns(columns(5), timestamp=20 * 3600)
        assert ask(url, "POST", "/rank", late)[1]["boost"] == {}
        clock[0] += 1
        assert "evening" in ask(url, "POST", "/rank", as_columns(columns(5)))[1]["boost"]


# -- looking ----------------------------------------------------------------------------------------------------------


def test_a_served_request_is_explained_by_what_served_it(feed: tuple[str, Feed]) -> None:
    url, _ = feed
    _, told = ask(url, "POST", "/rank", as_columns(columns(100), id="r1", size=10))
    ask(url, "POST", "/switches", {"on": False}, BEARER)
    _, listed = ask(url, "GET", "/requests")
    assert [(one["request"], one["candidates"], one["version"]) for one in listed] == [("r1", 100, 1)]
    _, why = ask(url, "GET", "/requests/r1")
    assert [one["item"] for one in why["items"]] == told["items"]
    assert [one["score"] for one in why["items"]] == told["score"]
    assert any(one["plans"] for one in why["items"])
    assert ask(url, "GET", "/requests/r2")[0] == 404


def test_what_if_is_exact_on_what_was_served(feed: tuple[str, Feed]) -> None:
    url, opened = feed
    for n in range(10):
        ask(url, "POST", "/rank", as_columns(columns(100, n), size=20))
    status, told = ask(url, "GET", "/what-if?plan=live&bias=0.5")
    assert status == 200
    changed = Blender(
        Snapshot.of(
            snapshot().alignment,
            Plans.model_validate(PLANS | {"plans": [PLANS["plans"][0] | {"bias": 0.5}, *PLANS["plans"][1:]]}),
        )
    )
    lists = [changed.rank(columns(100, n), 20, at=0.0) for n in range(10)]
    value = 1000 * sum(one.value.sum() for one in lists) / 200
    spend = 1000 * sum(one.contributions[:, 0].sum() for one in lists) / 200
    hits = sum(int((one.mask & np.uint64(1)).sum()) for one in lists)
    assert told["value"]["after"] == pytest.approx(value, rel=1e-12)
    assert told["plans"]["live"]["spend"]["after"] == pytest.approx(spend, rel=1e-12)
    assert told["plans"]["live"]["share"]["after"] == pytest.approx(hits / 200, rel=1e-12)
    low, high = told["value"]["change"][1:]
    assert low <= told["value"]["after"] - told["value"]["before"] <= high
    assert 0 < told["moved"] <= 1
    same = ask(url, "GET", "/what-if?plan=live")[1]
    assert same["moved"] == 0
    off = ask(url, "GET", "/what-if?plan=live&on=false")[1]
    assert off["plans"]["live"]["spend"]["after"] == 0
    assert ask(url, "GET", "/what-if?plan=none")[0] == 404
    assert ask(url, "GET", "/what-if?plan=live&bias=nan")[0] == 400
    assert opened.publisher.snapshot.version == 1


def test_what_if_leaves_the_control_bucket_out(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"control": 0.5})
    with open_feed(saved(tmp_path), None, config) as feed, running(feed.service(token=None)) as address:
        asked = [ask(address, "POST", "/rank", as_columns(columns(20, n), id=f"r{n}"))[1] for n in range(12)]
        others = sum(not one["control"] for one in asked)
        assert 0 < others < 12
        assert ask(address, "GET", "/what-if?plan=live")[1]["requests"] == others


def test_what_if_without_requests_says_so(url: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"recent": 0})
    with open_feed(saved(tmp_path), None, config) as feed, running(feed.service(token=None)) as address:
        ask(address, "POST", "/rank", as_columns(columns(10)))
        told = ask(address, "GET", "/what-if?plan=live&bias=1")[1]
    assert (told["requests"], told["moved"], told["value"]["after"]) == (0, None, None)


def test_one_service_has_the_folder(tmp_path: Path) -> None:
    from noria.core.errors import RunError

    with Journal(tmp_path / "state" / "log"), pytest.raises(RunError, match="in use"):  # noqa: SIM117
        with open_feed(saved(tmp_path), tmp_path / "state", CONFIG):
            pass
    with pytest.raises(Exception, match="no snapshot to serve"):
        Publisher.open(tmp_path / "empty", None, lambda: 0.0)


def test_every_route_is_described_in_openapi(url: str) -> None:
    status, document = ask(url, "GET", "/openapi.json")
    assert status == 200
    assert document["openapi"] == "3.1.0"
    head = (service_module.__doc__ or "").partition("```text")[2].partition("```")[0]
    for path in (
        "/rank",
        "/impressions",
        "/outcomes",
        "/snapshot",
        "/plans",
        "/switches",
        "/rollback",
        "/what-if",
    ):
        assert path in head
        assert path in document["paths"]
    body = document["paths"]["/rank/{scene}"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/vnd.apache.arrow.stream"}
    assert document["paths"]["/plans"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/rank"]["post"]
    fields = document["components"]["schemas"]["RankBody"]["properties"]
    assert {"id", "user", "size", "items", "columns"} <= set(fields)

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from ([value["$ref"]] if "$ref" in value else [])
            value = list(value.values())
        for inner in value if isinstance(value, list) else ():
            yield from references(inner)

    for reference in references(document):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_a_candidate_is_hit_or_not_whatever_the_others_hold(tmp_path: Path) -> None:
    plans = {
        "plans": [
            {"id": "untagged", "when": '"sport" not in tags', "bias": 1.0},
            {"id": "new", "when": "not old", "bias": 0.5},
        ]
    }
    items = [
        {"id": "a", "score": 0.5, "source": "organic"},
        {"id": "b", "score": 0.5, "source": "organic", "fields": {"tags": [], "old": False}},
        {"id": "c", "score": 0.5, "source": "organic", "fields": {"tags": ["sport"], "old": True}},
    ]
    with (
        open_feed(saved(tmp_path, plans=plans), None, CONFIG) as opened,
        running(opened.service(token=None)) as address,
    ):
        for several in (items, items[:1], items[:2], items[::2]):
            _, answer = ask(address, "POST", "/rank", {"size": 3, "items": several})
            boosts = {row["item"]: row.get("boost", {}) for row in answer["items"]}
            for name, boost in boosts.items():
                assert boost == ({"untagged": 1.0, "new": 0.5} if name == "b" else {})


def test_whole_numbers_that_floats_would_merge_are_refused(url: str) -> None:
    fields = {"author": 2**53 + 1}
    rows_of_one = {"items": [{"id": "a", "score": 1.0, "source": "live", "fields": fields}]}
    columns_of_one = {"columns": {"item": ["a"], "score": [1.0], "source": ["live"], "author": [2**53 + 1]}}
    constant = {"fields": fields, "items": [{"id": "a", "score": 1.0, "source": "live"}]}
    for body in (rows_of_one, columns_of_one, constant):
        status, answer = ask(url, "POST", "/rank", body)
        assert status == 400
        assert "above 2^53" in answer["error"]["message"]


def test_a_what_if_on_few_requests_says_so_and_keeps_shares_within_0_and_1(feed: tuple[str, Feed]) -> None:
    url, _ = feed
    for n in range(3):
        assert ask(url, "POST", "/rank", as_columns(columns(40, n), id=f"r{n}", size=3))[0] == 200
    result = ask(url, "GET", "/what-if?plan=live&bias=0.3")[1]
    assert (result["requests"], result["few"]) == (3, True)
    for figures in result["plans"].values():
        share = figures["share"]
        assert share["change"][1] >= -share["before"] - 1e-9
        assert share["change"][2] <= 1 - share["before"] + 1e-9
