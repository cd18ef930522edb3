"""Stage 2 chooses, on the pool, which of its updates go to the gate together."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from noria.skills.bank.bank import Bank
from noria.skills.bank.skill import make_skill
from noria.skills.routing.routers import Routing
from noria.skills.stages.gates import GateSettings
from noria.skills.stages.route_optimizer import RouteConfig, RouteResult, optimize_routes
from noria.skills.traffic.samples import Sample

NAMES = ("alpha", "beta", "gamma")
EACH = 40


class TableRouter:
    """Sends the first samples of a skill right: how many, a table says by the skills whose description is new."""

    def __init__(self, bank: Bank, table: dict[str, tuple[int, int, int]]) -> None:
        new = "".join(name[0] for name in NAMES if "anew" in bank.skills[name].description)
        self.right = dict(zip(NAMES, table[new], strict=True))

    def route(self, samples: Sequence[Sample], *, draw: int = 0) -> list[Routing]:
        decisions = []
        for sample in samples:
            name, number = sample.query.split()
            other = NAMES[(NAMES.index(name) + 1) % 3]
            decisions.append(Routing("skill", name if int(number) < self.right[name] else other))
        return decisions


def optimized(table: dict[str, tuple[int, int, int]]) -> RouteResult:
    """Stage 2 of one round, where every skill with a misroute gets a new description."""
    bank = Bank({name: make_skill(name, f"About {name}.", "Help.") for name in NAMES})
    pool, gate = (
        [Sample(f"{kind}-{n}-{name}", f"{name} {n}", f"{kind}-{n}-{name}", expected=(name,))
         for name in NAMES for n in range(EACH)]
        for kind in ("pool", "gate")
    )  # fmt: skip
    proposer = SimpleNamespace(
        causes=lambda misroutes, shown: ["boundary"] * len(misroutes),
        describe=lambda task: f"About {task.skill.name}, anew.",
    )
    config = RouteConfig(route_rounds=1, least_failures=1)
    return optimize_routes(
        bank, pool, gate, lambda b: TableRouter(b, table), proposer, config, GateSettings()
    )


def updated(result: RouteResult) -> set[str]:
    return {operation.skill for operation in result.rounds[0].accepted}


def test_all_updates_go_together_where_they_gain_and_every_floor_holds() -> None:
    table = {"": (20, 20, 38), "a": (40, 0, 38), "b": (0, 40, 38), "g": (20, 20, 38),
             "ab": (40, 40, 38), "ag": (40, 0, 38), "bg": (0, 40, 38), "abg": (40, 40, 38)}  # fmt: skip
    result = optimized(table)
    assert updated(result) == set(NAMES)
    assert result.after.accuracy == (40 + 40 + 38) / 120


def test_the_update_that_gains_more_alone_wins_over_the_rest_of_all() -> None:
    table = {"": (20, 20, 38), "a": (40, 20, 38), "b": (20, 24, 38), "g": (20, 20, 39),
             "ab": (0, 24, 38), "ag": (0, 20, 39), "bg": (20, 24, 39), "abg": (0, 24, 39)}  # fmt: skip
    assert updated(optimized(table)) == {"alpha"}


def test_updates_of_which_no_part_keeps_the_floors_go_to_no_gate() -> None:
    table = dict.fromkeys(("a", "b", "g", "ab", "ag", "bg", "abg"), (40, 40, 20)) | {"": (20, 20, 38)}
    result = optimized(table)
    assert updated(result) == set()
    assert result.rounds[0].receipts == ()
