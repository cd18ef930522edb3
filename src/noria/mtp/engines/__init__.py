"""Other engines: audited against the law of a model, and configured so that they keep it."""
