"""ReCal's claims (arXiv 2606.12479), tested on a real pool, and the speed of what they need."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

__all__ = ["BENCHES", "PROOFS"]

PROOFS = (
    ProofEntry(
        "routing",
        "noria.routing.proof.claims",
        inputs={"table": "Published table of models' scores."},
    ),
)
BENCHES = (BenchEntry("routing", "noria.routing.proof.bench"),)
