"""The proof of the gates."""

from noria.core.proofs.catalogue import ProofEntry

PROOFS = (ProofEntry("gates", "noria.assistant.proof.gates"),)
