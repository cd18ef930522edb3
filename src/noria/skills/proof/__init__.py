"""The proof in the picture world."""

from noria.core.proofs.catalogue import ProofEntry

PROOFS = (ProofEntry("skills", "noria.skills.proof.claims"),)
