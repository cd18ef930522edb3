"""Catalogue of the proofs and benches that systems register in their packages `proof`; it imports nothing heavy.

```python
# noria/routing/proof/__init__.py
PROOFS = (ProofEntry("routing", "noria.routing.proof.claims", inputs={"table": "Published table of scores."}),)
BENCHES = (BenchEntry("routing", "noria.routing.proof.bench"),)
```
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["BenchEntry", "ProofEntry", "registered_benches", "registered_proofs"]


@dataclass(frozen=True)
class ProofEntry:
    """A proof that `noria prove NAME` runs.

    Attributes:
        name: name that a user types.
        module: dotted name of the module that holds `prove(context: ProofContext) -> Evidence`.
        inputs: help phrases of the files or folders that only a user can supply, by the name of their option.
    """

    name: str
    module: str
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchEntry:
    """A bench that `noria bench NAME` runs: `module` holds `benchmarks(*, rounds=…) -> Benchmark`."""

    name: str
    module: str


def registered_proofs(packages: Iterable[str]) -> dict[str, ProofEntry]:
    """Proofs by name, of the packages `noria.<name>` in their order."""
    return {entry.name: entry for package in packages for entry in _registered(package)[0]}


def registered_benches(packages: Iterable[str]) -> dict[str, BenchEntry]:
    """Benches by name, of the packages `noria.<name>` in their order."""
    return {entry.name: entry for package in packages for entry in _registered(package)[1]}


def _registered(package: str) -> tuple[tuple[ProofEntry, ...], tuple[BenchEntry, ...]]:
    spec = importlib.util.find_spec(f"noria.{package}.proof")
    if spec is None or not spec.submodule_search_locations:  # TRANSITION: a flat proof.py beside bench.py
        inputs = {
            "routing": {"table": "Published table of models' scores."},
            "grounding": {"annotations": "MM-OCEAN's records."},
        }
        return (
            (ProofEntry(package, f"noria.{package}.proof", inputs.get(package, {})),),
            (BenchEntry(package, f"noria.{package}.bench"),),
        )
    module = importlib.import_module(f"noria.{package}.proof")
    return tuple(getattr(module, "PROOFS", ())), tuple(getattr(module, "BENCHES", ()))
