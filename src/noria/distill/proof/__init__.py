"""The paper's claims, tested at a scale that fits a laptop, and the speed of the loop."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (ProofEntry("distill", "noria.distill.proof.claims"),)
BENCHES = (BenchEntry("distill", "noria.distill.proof.bench"),)
