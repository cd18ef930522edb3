"""Bebop (arXiv 2606.12370): multi-token-prediction heads that keep reinforcement-learning rollouts fast."""
