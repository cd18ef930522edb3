"""Costs and returns of plans: displacement, returns, books, estimates, A/B tests."""
