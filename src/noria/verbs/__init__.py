"""Parts that the verbs of all systems share: the bridge from a Config to a command, groups of options, tables."""
