"""The paper's claims on a procedural world, with the real transformer class at a small size, and the bench."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (ProofEntry("tryon", "noria.tryon.proof.claims"),)
BENCHES = (BenchEntry("tryon", "noria.tryon.proof.bench"),)
