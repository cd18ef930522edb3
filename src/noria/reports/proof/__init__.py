"""The proof on the World Factbook and vega-datasets, and the bench."""

from noria.core.proofs.catalogue import BenchEntry, ProofEntry

PROOFS = (
    ProofEntry(
        "reports",
        "noria.reports.proof.claims",
        inputs={"tables": "Folder of npm's vega-datasets, unpacked (for tasks on tables)."},
    ),
)
BENCHES = (BenchEntry("reports", "noria.reports.proof.bench"),)
