"""The proof on SynthOCEAN and on records that a user brings, and the bench."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (
    ProofEntry(
        "grounding",
        "noria.grounding.proof.claims",
        inputs={"annotations": "Folder of MM-OCEAN's released records."},
    ),
)
BENCHES = (BenchEntry("grounding", "noria.grounding.proof.bench"),)
