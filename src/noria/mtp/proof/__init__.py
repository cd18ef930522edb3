"""The paper's claims, tested on models that fit a laptop, and speed against peers."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (ProofEntry("mtp", "noria.mtp.proof.claims"),)
BENCHES = (BenchEntry("mtp", "noria.mtp.proof.bench"),)
