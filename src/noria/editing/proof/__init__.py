"""The paper's claims, tested at a scale that fits a laptop, and the speed of the reward path."""

from noria.core.proofs.catalogue import BenchEntry

BENCHES = (BenchEntry("editing", "noria.editing.proof.bench"),)
