"""Checklists of atomic questions on plans and pictures: items in files, verifier programs."""
