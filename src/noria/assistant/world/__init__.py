"""A small shop that is simulated: its catalogue, its trained models, its users, and the season in which it learns.

Nothing in it is scripted but its people: models are trained (`assets/`), tools are the systems' own, and users have a
hidden taste. Simulated users show that the machinery works, not that people are happier.
"""
