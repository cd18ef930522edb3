"""Charts as data: a specification, a table, and for every cell where it is from; no code is executed."""
