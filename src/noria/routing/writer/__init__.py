"""A language model as the router: it thinks, asks models of a pool, reads what they say, and answers."""
