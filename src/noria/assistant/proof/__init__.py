"""The proof of the gates, and the bench of the gateway."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (ProofEntry("gates", "noria.assistant.proof.gates"),)
BENCHES = (BenchEntry("serve", "noria.assistant.proof.bench_serve"),)
