"""What each plan cost and brought: displacement, returns, books, estimates, A/B tests."""
