"""Plans: who is boosted, by how much, within which bounds, until when. One validated YAML file, or its JSON.

Plan p adds s = 1_p(v) (w y + b) to the score r of candidate v, with y its value in expected effective completions
(Uniboost, arXiv 2605.26424). The weight w is a share of the candidate's own value, the bias b is expected completions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, time
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from noria.blending.plans.targeting import Expression, parse
from noria.core.config import Config, load_config
from noria.core.errors import ConfigError

MAX_PLANS = 64
"""Bits of the mask that says which plans hit a candidate."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _identifier(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", text):
        raise ValueError("an id is up to 64 of a-z, 0-9, '_', '.', '-', and starts with a letter or digit")
    return text


def _expression(text: str) -> str:
    try:
        parse(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text


def _moment(text: str) -> str:
    """An ISO 8601 time with its zone, as written."""
    try:
        result = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write 2026-11-25T18:00Z") from None
    if result.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write 2026-11-25T18:00Z")
    return text


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{text!r} is no time zone; write UTC or Europe/Berlin") from None
    return text


def _hours(text: str) -> str:
    result = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)", text)
    if not result or (result[3] == "24" and result[4] != "00"):
        raise ValueError(f"{text!r} are no hours; write 18:00-23:30")
    return text


Identifier = Annotated[str, AfterValidator(_identifier)]
When = Annotated[str, AfterValidator(_expression)]
Moment = Annotated[str, AfterValidator(_moment)]


class Target(Config):
    """Target of a plan; a controller or the solver then sets its bias, or its weight.

    Exactly one: a share of all exposures or exposures a day (both move the bias), a share of all value or effective
    completions a day (both move the weight).
    """

    exposure_share: float | None = Field(None, gt=0, lt=1)
    exposures_per_day: float | None = Field(None, gt=0)
    value_share: float | None = Field(None, gt=0, lt=1)
    completions_per_day: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Target:
        values = [name for name, value in self if value is not None]
        if len(values) != 1:
            raise ValueError(
                f"give one target, not {len(values)}; one of {', '.join(type(self).model_fields)}"
            )
        return self

    @property
    def moves(self) -> Literal["bias", "weight"]:
        """Whether the bias or the weight is set so that the target is met."""
        exposures = self.exposure_share is not None or self.exposures_per_day is not None
        return "bias" if exposures else "weight"

    @property
    def amount(self) -> float:
        """Amount of the target, of whichever kind it is."""
        return float(next(value for _, value in self if value is not None))

    @property
    def is_share(self) -> bool:
        """Whether it is a share, and not a number a day."""
        return self.exposure_share is not None or self.value_share is not None


class Budget(Config):
    """Daily budget of a plan in expected completions; once it is spent the plan rests until midnight UTC."""

    spend_per_day: float = Field(gt=0)


class Schedule(Config):
    """Times at which a plan is on. `hours` may run over midnight; without `days` it is every day."""

    start: Moment | None = None
    end: Moment | None = None
    days: tuple[Day, ...] = ()
    hours: Annotated[str, AfterValidator(_hours)] | None = None
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"

    @model_validator(mode="after")
    def _order(self) -> Schedule:
        if self.start and self.end and datetime.fromisoformat(self.end) <= datetime.fromisoformat(self.start):
            raise ValueError(f"the end {self.end} is not after the start {self.start}")
        return self

    def is_on(self, at: float) -> bool:
        """Whether it is on at a time in seconds since 1970 UTC."""
        if self.start is not None and at < datetime.fromisoformat(self.start).timestamp():
            return False
        if self.end is not None and at >= datetime.fromisoformat(self.end).timestamp():
            return False
        if not self.days and self.hours is None:
            return True
        local = datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(self.zone))
        day = local.weekday()
        if self.hours is not None:
            start, end = self.hours.split("-")
            now, over = local.time(), end == "24:00"
            begins, ends = time.fromisoformat(start), time() if over else time.fromisoformat(end)
            if over or begins < ends:
                within = begins <= now and (over or now < ends)
            else:  # over midnight: the small hours belong to the evening before
                within = now >= begins or now < ends
                day = day if now >= begins else (day - 1) % 7
            if not within:
                return False
        return not self.days or _DAYS[day] in self.days


class TargetedRule(Config):
    """Something by name that is about some candidates: those that `when` is true of."""

    id: Identifier
    when: When
    _parsed: Expression = PrivateAttr()

    def model_post_init(self, context: object, /) -> None:
        """Keep the expression parsed."""
        self._parsed = parse(self.when)

    @property
    def targeting(self) -> Expression:
        """The parsed expression of `when`."""
        return self._parsed


class Plan(TargetedRule):
    """A plan: boosts for one business goal.

    Attributes:
        id: unique name of the plan.
        owner: person or team that answers for it.
        when: candidates it is for, in the language of `noria.blending.plans.targeting`.
        weight: w, a share of the candidate's value.
        bias: b, expected effective completions an exposure.
        cap: most that |s| may be, in mean values of an exposure.
        budget, schedule, target: see the classes.
        enabled: the plan's switch.
    """

    owner: str = ""
    note: str = ""
    when: When = "true"
    weight: float = Field(0.0, ge=-1, le=1000)
    bias: float = Field(0.0, ge=-1e6, le=1e6)
    cap: float | None = Field(None, gt=0)
    budget: Budget | None = None
    schedule: Schedule | None = None
    target: Target | None = None
    enabled: bool = True


class Guards(Config):
    """Bounds on all plans together. What they take is booked as a term of its own.

    Attributes:
        total_cap: most that all contributions may add to a candidate, in units of max(its value, the mean value).
        floor: candidates of less value get no boost; demotions stay.
        only_value: rank by value alone: the switch of all plans at once.
        jump: a new alignment whose log scale moves by more is held back.
        max_age: seconds after which a snapshot is too old; it still serves, with an alarm.
    """

    total_cap: float | None = Field(None, gt=0)
    floor: float | None = None
    only_value: bool = False
    jump: float = Field(0.3, gt=0)
    max_age: float | None = Field(None, gt=0)


class SlotRule(TargetedRule):
    """A hard rule on places in the list, kept after sorting; what it displaces is booked.

    Attributes:
        when: which candidates it is about.
        gap: at least so many others between two of them.
        run: at most so many next to each other.
        at_most: so many of them in a list.
        first: not before this place, counted from 1.
    """

    gap: int = Field(0, ge=0)
    run: int | None = Field(None, ge=1)
    at_most: int | None = Field(None, ge=0)
    first: int = Field(1, ge=1)


class Plans(Config):
    """The plan file."""

    plans: tuple[Plan, ...] = ()
    guards: Guards = Guards()
    slots: tuple[SlotRule, ...] = Field((), max_length=16)

    @model_validator(mode="after")
    def _distinct(self) -> Plans:
        if len(self.plans) > MAX_PLANS:
            raise ValueError(f"{len(self.plans)} plans; at most {MAX_PLANS} fit into one mask")
        for what, ids in (("plan", self.ids), ("slot rule", [rule.id for rule in self.slots])):
            twice = sorted({one for one in ids if ids.count(one) > 1})
            if twice:
                raise ValueError(f"the {what} {twice[0]!r} is there twice")
        return self

    @property
    def ids(self) -> list[str]:
        """Ids of the plans, in the order of the bits of the mask."""
        return [plan.id for plan in self.plans]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {plan.id: place for place, plan in enumerate(self.plans)}

    def place(self, plan: str) -> int:
        """The bit of a plan.

        Raises:
            ConfigError: there is no such plan.
        """
        if plan not in self._places:
            raise ConfigError(
                f"there is no plan {plan!r}", mend=f"plans are {', '.join(self.ids) or 'not there at all'}"
            )
        return self._places[plan]

    def active(self, at: float | None) -> list[bool]:
        """Which plans are on.

        Args:
            at: seconds since 1970 UTC; may be None where no plan has a schedule.

        Raises:
            ConfigError: a plan has a schedule and there is no time.
        """
        if self.guards.only_value:
            return [False] * len(self.plans)
        if at is None and any(plan.schedule for plan in self.plans):
            raise ConfigError("a plan has a schedule, and the request no time", mend="give `at`")
        return [
            plan.enabled and (plan.schedule is None or plan.schedule.is_on(at or 0.0)) for plan in self.plans
        ]


def load_plans(file: Path, overrides: Sequence[str] = ()) -> Plans:
    """Read a plan file.

    Raises:
        ConfigError: with file and line: unreadable, an unknown field, a wrong expression, a value out of its range.
    """
    return load_config(Plans, file=file, overrides=overrides)
