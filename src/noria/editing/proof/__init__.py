"""The paper's claims, tested in a world of pictures with exact answers; the speed of the reward path; calls spared."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (ProofEntry("editing", "noria.editing.proof.claims"),)
BENCHES = (
    BenchEntry("editing", "noria.editing.proof.bench"),
    BenchEntry("editing-calls", "noria.editing.proof.bench_calls"),
)
