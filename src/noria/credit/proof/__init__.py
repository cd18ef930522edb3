"""The paper's claims, tested, and speed against peers."""

from __future__ import annotations

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (ProofEntry("credit", "noria.credit.proof.claims"),)
BENCHES = (BenchEntry("credit", "noria.credit.proof.bench"),)
