"""The paper's claims, tested, and the benchmarks. Listing them imports nothing heavy."""

from __future__ import annotations

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

__all__ = ["BENCHES", "PROOFS"]

PROOFS = (ProofEntry("blending", "noria.blending.proof.claims"),)
BENCHES = (BenchEntry("blending", "noria.blending.proof.bench"),)
