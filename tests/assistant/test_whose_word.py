"""Whose word decides a test: ratings are bounded, who floods is not heard, and a caller counts by its weight."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from noria.assistant.companion.readings import decide
from noria.assistant.config import AssistantConfig
from noria.core.experiments.lifecycle import CONTROL, TREATMENT, ExperimentConfig, Reading, Step
from noria.core.traces.ids import new_id
from noria.core.traces.index.figures import unit_figures
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.records import AssignmentRecord, Feedback, FeedbackKind, Trace
from tests.assistant.gateways import TOKEN, gateway
from tests.assistant.test_gateway import WISH, stage
from tests.waiting import until

CONFIG = ExperimentConfig(
    name="e", champion="a", challenger="b", salt="salt of a test", planned=4000, primary="helpful"
)


@pytest.fixture(name="index")
def _index(tmp_path: Path) -> Iterator[TraceIndex]:
    index = TraceIndex(tmp_path / "index.sqlite")
    yield index
    index.close()


class World:
    """A log of answers in two arms, each with what its user said of it."""

    def __init__(self, index: TraceIndex, number: int = 4000, gain: float = 0.0) -> None:
        self.index, self.at = index, 1_800_000_000_000_000_000
        dice = random.Random(1)
        for n in range(number):
            arm = (CONTROL, TREATMENT)[n % 2]
            self.say(arm, f"user {n}", float(dice.random() < 0.35 + gain * (n % 2)))

    def say(
        self,
        arm: str,
        by: str,
        value: float | None,
        *,
        user: str | None = "the author",
        conversation: str | None = None,
        caller: str = "shop",
        kind: FeedbackKind = "rating",
    ) -> None:
        """Add an answer, and what somebody says of it."""
        self.at += 1_000_000
        trace = new_id(self.at)
        unit = by if user == "the author" else user
        dealt = (AssignmentRecord("e", arm, 0.5),)
        self.index._add(Trace(trace, self.at, self.at, "ok", caller=caller, user=unit, conversation=conversation,
                              assignments=dealt))  # fmt: skip
        text = "another one" if kind == "correction" else None
        self.index._add(Feedback(new_id(self.at), trace, kind, "helpful", self.at, value, text, by=by))

    def decide(self, callers: Mapping[str, float] | None = None) -> tuple[Reading, Step]:
        return decide(self.index, CONFIG, "ab", 0, callers=callers)


def test_one_rating_of_a_million_stops_no_version_that_is_better(index: TraceIndex) -> None:
    world = World(index, gain=0.31)
    honest, step = world.decide()
    assert step.stage == "promoted"
    world.say(CONTROL, "hostile", 1e6)
    world.say(TREATMENT, "hostile, too", -1e6)
    reading, step = world.decide()
    assert step.stage == "promoted"
    assert reading.primary.effect == pytest.approx(honest.primary.effect, abs=0.002)


def test_forty_ratings_of_a_million_promote_nothing(index: TraceIndex) -> None:
    world = World(index)
    honest, before = world.decide()
    for n in range(40):
        world.say(TREATMENT, f"bought {n}", 1e6)
        world.say(CONTROL, f"unbought {n}", None, kind="comment")
    reading, step = world.decide()
    assert (before.stage, step.stage) == ("futile", "futile")
    assert reading.primary.effect < honest.primary.effect + 40 / 2000


def test_who_says_far_more_than_the_others_decides_nothing(index: TraceIndex) -> None:
    """A script that names no users: each of its requests is a unit of its own."""
    world = World(index)
    honest, _ = world.decide()
    for n in range(1200):
        arm = (CONTROL, TREATMENT)[n % 2]
        world.say(arm, "script", float(n % 2), user=None)
        world.say(arm, "corrector", None, user=None, kind="correction")
    reading, step = world.decide()
    assert reading.primary == honest.primary
    assert reading.units == honest.units
    assert step.stage == "futile"
    corrected = [one for one in unit_figures(index, "e", 0, []) if one.name == "uncorrected"]
    assert all(one.total == one.number for one in corrected)


def test_an_application_without_users_is_heard_beside_one_with_users(index: TraceIndex) -> None:
    """It gives all its feedback by its own name: its conversations count as people, and not as one who floods."""
    world = World(index, number=600)
    for n in range(400):
        arm = (CONTROL, TREATMENT)[n % 2]
        world.say(arm, "bare", 1.0, user=None, conversation=f"c{n}", caller="bare")
    reading, _ = world.decide()
    assert reading.units == {CONTROL: 500, TREATMENT: 500}
    heard = {one.crowd for one in unit_figures(index, "e", 0, ["helpful"]) if one.name == "helpful"}
    assert heard == {"", "bare"}
    for n in range(300):
        world.say((CONTROL, TREATMENT)[n % 2], "bare", 1.0, user=None, conversation="one", caller="bare")
    assert world.decide()[0].units == reading.units, "a conversation of hundreds of ratings is not heard"


def test_conversations_of_one_caller_do_not_outvote_the_users_of_others(index: TraceIndex) -> None:
    world = World(index, number=2000)
    honest, _ = world.decide()
    for n in range(2000):
        arm = (CONTROL, TREATMENT)[n % 2]
        world.say(arm, "bare", float(n % 2), user=None, conversation=f"c{n}", caller="bare")
    assert world.decide()[1].stage == "promoted", "where as many are heard as there are conversations"
    reading, step = decide(index, CONFIG, "ab", 0, most_unnamed=100)
    assert step.stage == "futile"
    assert reading.primary.effect == pytest.approx((1000 * honest.primary.effect + 100) / 1100)
    assert AssistantConfig.model_fields["learning"].default.most_unnamed == 100


def test_an_application_without_users_alone_promotes_what_is_better(index: TraceIndex) -> None:
    world, dice = World(index, number=0), random.Random(1)
    for n in range(4000):
        arm = (CONTROL, TREATMENT)[n % 2]
        world.say(arm, "bare", float(dice.random() < 0.35 + 0.31 * (n % 2)), user=None, caller="bare")
    assert decide(index, CONFIG, "ab", 0, most_unnamed=100)[1].stage == "promoted"


def test_users_of_a_caller_of_no_weight_decide_nothing(index: TraceIndex) -> None:
    world = World(index)
    honest, _ = world.decide()
    for n in range(2000):
        arm = (CONTROL, TREATMENT)[n % 2]
        world.say(arm, f"invented {n}", float(n % 2), caller="partner")
        world.say(
            CONTROL if n % 2 else TREATMENT, f"invented {n}, too", None, caller="partner", kind="correction"
        )
    assert world.decide()[1].stage == "promoted", "where the partner has a voice"
    reading, step = world.decide({"partner": 0.0})
    assert reading.primary == honest.primary
    assert reading.units == honest.units
    assert step.stage == "futile"
    assert reading.assigned[CONTROL] == 4000, "how they were dealt is still seen"
    known = [
        one.unit
        for one in unit_figures(index, "e", 0, [], callers={"partner": 0})
        if one.name == "uncorrected" and one.number
    ]
    assert len(known) == 4000


def test_of_a_callers_users_as_large_a_share_is_heard_as_its_weight(index: TraceIndex) -> None:
    world = World(index, number=0)
    for n in range(4000):
        world.say(TREATMENT, f"user {n}", 1.0)
    heard = [
        one.unit
        for one in unit_figures(index, "e", 0, ["helpful"], callers={"shop": 0.2})
        if one.name == "helpful"
    ]
    assert len(heard) == pytest.approx(800, abs=100)
    more = {
        one.unit
        for one in unit_figures(index, "e", 0, ["helpful"], callers={"shop": 0.4})
        if one.name == "helpful"
    }
    assert more > set(heard), "the same users at every look, and more of them at a larger weight"


def test_only_operators_hear_which_arm_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that knows the arms of users whom it makes up could rate the challenger alone."""
    monkeypatch.setenv("SHOP_TOKEN", "a-token-of-the-shop-0123")
    callers = [{"name": "shop", "token_env": "SHOP_TOKEN"}]
    with gateway(tmp_path / "data", companion=True, callers=callers) as one:

        def told(token: str, **more: bool) -> set[str]:
            wish = {"messages": [{"role": "user", "content": "x"}], "user": "ann", **more}
            status, _, headers = one.raw("/v1/chat/completions", wish, token=token)
            assert status == 200
            return {name for name in headers if name.startswith("x-noria-")}

        assert told("a-token-of-the-shop-0123") == {"x-noria-trace", "x-noria-bundle"}, (
            "one bundle serves all"
        )
        one.call("/v1/experiments", WISH)
        stage(one, "kindness", "ab")
        assert until(lambda: "x-noria-arms" in told(TOKEN))
        for more in ({}, {"stream": True}):
            assert told("a-token-of-the-shop-0123", **more) == {"x-noria-trace"}
            assert told(TOKEN, **more) == {"x-noria-trace", "x-noria-bundle", "x-noria-arms"}
