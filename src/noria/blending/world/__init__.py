"""A simulated feed whose truth is known: candidates, plans, a history, and logs to try the verbs on."""
