"""The proofs of the gates and of the loop over them, and the bench of the gateway."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (
    ProofEntry("gates", "noria.assistant.proof.gates"),
    ProofEntry("assistant", "noria.assistant.proof.loop.claims"),
)
BENCHES = (
    BenchEntry("serve", "noria.assistant.proof.bench_serve"),
    BenchEntry("assistant", "noria.assistant.proof.bench_assistant"),
)
