"""Splits of traffic in which neither a person nor a content lies on both sides.

One person's requests resemble each other, and so do two people's requests for the same thing. Joining all that share
anything into one group fails where contents are popular: whoever sends "thanks" is joined to everybody else who does,
and one group holds most of the traffic. So the split is made two ways, as recommenders are tested on users and items
that are both new, and predictors of binding on drugs and targets that are both new (Park and Marcotte, 2012):

* Groups (people) are dealt to the splits by a hash of their name.
* Contents (a request, a picture) that occur in groups of several splits are dealt by a hash of their own.
* An example is used where all its shared contents were dealt to the split of its group; else it lies in no split.

With shares p of the splits, an example with k shared contents that are dealt independently is used with probability
Σ pᵏ⁺¹; an example whose contents occur in one split alone is always used. What is dealt follows from names and salt
alone, so a group and a shared content keep their splits whatever comes and goes, and an example lies in the split of
its group or in none.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from noria.core.experiments.assignment import position

LEFT_OUT = "left out"
"""The split of examples that lie in none, since they share a content with another split."""


def two_way_split(
    groups: Sequence[str], contents: Sequence[Sequence[str]], *, salt: str, shares: Mapping[str, float]
) -> list[str]:
    """Deal examples to splits such that no group and no content lies in two of them.

    Args:
        groups: [examples] name of the group of each.
        contents: [examples] names of what each may share with others; a name may be there twice.
        salt: text that deals groups and contents; another salt deals them anew.
        shares: share of each split; they sum to 1.

    Returns:
        [examples] name of a split, or `LEFT_OUT`.

    Raises:
        ValueError: the shares are negative or do not sum to 1, or a split has the name `LEFT_OUT`.
    """
    if not shares or abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) < 0 or LEFT_OUT in shares:
        raise ValueError("shares of splits are not negative and sum to 1, and no split is named 'left out'")
    edges = list(itertools.accumulate(shares.values()))

    def dealt(name: str) -> str:
        place = position(salt, name)
        return next((split for split, edge in zip(shares, edges, strict=True) if place < edge), last)

    last = list(shares)[-1]
    of_group = {group: dealt(group) for group in dict.fromkeys(groups)}
    first: dict[str, str] = {}
    shared: dict[str, str] = {}
    for group, names in zip(groups, contents, strict=True):
        split = of_group[group]
        for name in names:
            if first.setdefault(name, split) != split and name not in shared:
                shared[name] = dealt(name)
    return [
        split if all(shared.get(name, split) == split for name in names) else LEFT_OUT
        for split, names in zip(map(of_group.__getitem__, groups), contents, strict=True)
    ]


def cross_folds(
    groups: Sequence[str], contents: Sequence[Sequence[str]], number: int, *, salt: str
) -> tuple[list[int], list[list[int]]]:
    """Folds of a cross-validation in which nothing of a fold is known to what is fitted for it.

    Args:
        groups: [examples] name of the group of each.
        contents: [examples] names of what each may share with others.
        number: number of folds.
        salt: text that deals the groups to the folds.

    Returns:
        [examples] fold of each; and for each fold the examples to fit on: those of other groups that share no content
        with the fold.
    """
    held = [int(number * position(salt, group)) for group in groups]
    own: list[set[str]] = [set() for _ in range(number)]
    for fold, names in zip(held, contents, strict=True):
        own[fold].update(names)
    others = [
        [n for n, names in enumerate(contents) if held[n] != fold and own[fold].isdisjoint(names)]
        for fold in range(number)
    ]
    return held, others


def widest_contents(contents: Sequence[Sequence[str]]) -> list[str]:
    """The content of each example that most of the examples have: what it has in common with them.

    Args:
        contents: [examples] names of the contents of each.

    Returns:
        [examples] one name; of contents that are equally frequent the first by name. An example without any has a name
        of its own.
    """
    often = Counter(name for names in contents for name in set(names))
    return [
        min(names, key=lambda name: (-often[name], name)) if names else f"nothing {number}"
        for number, names in enumerate(contents)
    ]
