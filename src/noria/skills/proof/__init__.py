"""The proof in the picture world, and the bench."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (ProofEntry("skills", "noria.skills.proof.claims"),)
BENCHES = (BenchEntry("skills", "noria.skills.proof.bench"),)
