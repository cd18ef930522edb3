"""The claims of DDA-Thinker, tested in a world of pictures with exact answers, and the speed of its parts."""

from noria.core.proofs.catalogue import ProofEntry

PROOFS = (ProofEntry("editing", "noria.editing.proof.claims"),)
