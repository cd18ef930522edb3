"""Checklists of atomic questions on plans and pictures: items, verifiers, synthesis, validation."""
