"""Rewards by component, and which of them count: a component is eligible where those it depends on were good enough.

A router is paid for several things in an order: an answer counts only if it can be read, thrift only if the answer was
right. ReCal (arXiv 2606.12479) calls that hierarchical decomposition. Here it is a graph without cycles; each
edge p → k carries a threshold τ, and

    e[k] = given[k] · Π_p e[p] · 1[r[p] ≥ τ]

A mask, and not a zero written in the place of the reward, keeps a level from polluting the statistics of the next.
The paper's own equations could not be read; this is our reconstruction, and Router-R1's early exits are the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from pydantic import Field

from noria.core.config import Config
from noria.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class Component(Config):
    """Weight of a reward component, and the components that it depends on."""

    weight: float = Field(1.0, description="Weight λ of the component's advantage in the sum.")
    parents: dict[str, float] = Field(
        default_factory=dict,
        description="Components that this one depends on, with the least reward of each.",
    )


FORM_ANSWER_COST: dict[str, Component] = {
    "form": Component(),
    "answer": Component(parents={"form": 0.5}),
    "thrift": Component(weight=0.3, parents={"answer": 0.5}),
}
"""The components of a router that writes text: is it readable, is the answer right, was it cheap."""

ANSWER_COST: dict[str, Component] = {
    "answer": Component(),
    "thrift": Component(weight=0.3, parents={"answer": 0.5}),
}
"""The components of a router that only chooses."""


def order(components: Mapping[str, Component]) -> list[str]:
    """Sort components, parents first.

    Raises:
        ConfigError: a parent is no component, or a component depends on itself.
    """
    for name, component in components.items():
        for parent in component.parents:
            if parent not in components:
                raise ConfigError(
                    f"{name} depends on {parent!r}, which is no component",
                    where="components",
                    mend=f"the components are {', '.join(components)}",
                )
    try:
        return list(TopologicalSorter({n: list(c.parents) for n, c in components.items()}).static_order())
    except CycleError as error:
        raise ConfigError(
            f"they depend on each other in a circle: {' → '.join(error.args[1])}", where="components"
        ) from None


def eligible(rewards: Tensor, names: Sequence[str], components: Mapping[str, Component]) -> Tensor:
    """Find which rewards count.

    Args:
        rewards: [rows, components]; NaN and the infinities were not given.
        names: names of the columns.
        components: settings of all columns, and maybe of others.

    Returns:
        [rows, components] bool.

    Raises:
        ConfigError: a column is no component, or a parent is no column.
    """
    missing = [name for name in names if name not in components]
    missing += [p for n in names if n in components for p in components[n].parents if p not in names]
    if missing:
        raise ConfigError(f"{missing[0]!r} has no column or is no component", where="rewards")
    given = rewards.isfinite()
    mask = given.clone()
    for name in order({n: components[n] for n in names}):
        column = names.index(name)
        for parent, least in components[name].parents.items():
            above = names.index(parent)
            mask[:, column] &= mask[:, above] & (rewards[:, above] >= least)
    return mask
