"""Proofs and benches: claims, arms, evidence, the report, and speed against a peer."""
