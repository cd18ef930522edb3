"""Routers that choose once: baselines, the policy network, its training, and what routers are judged by."""
