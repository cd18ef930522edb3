"""Run `noria skills run` and die at a named point, as a kill from outside would: `python -m … POINT WORDS…`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import noria.cli
from noria.core.versions.artefacts import ArtefactStore
from noria.skills.bank import bank
from noria.skills.bank.bank import BankFolder
from noria.skills.bank.ledger import Ledger


def dies(function: Callable[..., Any], *, after: bool = False, on: int = 1) -> Callable[..., Any]:
    """The function, that ends the process before or after its call number `on`."""
    calls = 0

    def call(*args: Any, **fields: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == on and not after:
            os._exit(9)
        result = function(*args, **fields)
        if calls == on:
            os._exit(9)
        return result

    return call


def arm(point: str) -> None:
    """Set the trap at a point."""
    if point == "before the version is kept":
        ArtefactStore.add = dies(ArtefactStore.add)  # type: ignore[method-assign]
    elif point == "after the version is kept":
        ArtefactStore.add = dies(ArtefactStore.add, after=True)  # type: ignore[method-assign]
    elif point == "between two skills":
        bank.write_skill = dies(
            bank.write_skill, on=6
        )  # three are written into the version, then three into the bank
    elif point == "before the ledger's line":
        Ledger.add = dies(Ledger.add)  # type: ignore[method-assign]
    elif point == "after the ledger's line":
        Ledger.add = dies(Ledger.add, after=True)  # type: ignore[method-assign]
    elif point == "between two stages":
        BankFolder.publish = dies(BankFolder.publish, after=True)  # type: ignore[method-assign]
    else:
        raise SystemExit(f"there is no point {point!r}")


if __name__ == "__main__":
    arm(sys.argv[1])
    noria.cli.main(["skills", *sys.argv[2:]])
