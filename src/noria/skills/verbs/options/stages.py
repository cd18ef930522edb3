"""A stage of the chain run on the bank of a verb's settings, and its figures as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noria.skills.bank.bank import Bank, BankFolder
    from noria.skills.stages.chain import Chain
    from noria.skills.traffic.samples import Sample


def run_stage(config: Any, name: str, stage: Callable[[Any, Bank, Any], Any]) -> dict[str, Any]:
    """Run one stage on the bank of a verb's settings: its summary.

    Raises:
        DataError: the traffic cannot be read. RunError: another process writes the bank.
    """
    folder = config.folder()
    pools = config.pools() if config.data is not None or name != "create" else {"optimise": []}
    with folder.writing():
        bank = folder.load()
        chain = chain_of(config, folder, bank, pools)
        _, result = chain.stage(name, bank, lambda b: stage(config, b, pools))
    return result


def chain_of(config: Any, folder: BankFolder, bank: Bank, pools: Mapping[str, Sequence[Sample]]) -> Chain:
    """The chain of a verb's settings on its bank, whose lock is held."""
    from noria.skills.stages.chain import Chain

    settings = config.model_dump(exclude={"bank", "by", "dry_run", "as_json"})
    samples = [sample for pool in pools.values() for sample in pool]
    return Chain(folder, bank, settings, samples, by=config.name(), dry=config.dry_run)


def tools_of(bank: Bank, more: Sequence[str] = ()) -> list[str]:
    """Names of every tool that a skill of the bank may call, and more."""
    return sorted({tool for skill in bank.skills.values() for tool in skill.tools} | set(more))


def share(value: float | None) -> str:
    """A share as text with three digits; a dash where it is missing."""
    return "-" if value is None or value != value else f"{value:.3f}"


def label_rows(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> list[list[str]]:
    """Rows of a table of F1 before and after, by label."""
    return [[name, share(before.get(name)), share(value)] for name, value in after.items()]
