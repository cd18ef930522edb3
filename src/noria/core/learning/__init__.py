"""Learning from traffic: one turn at a time, from frozen data over a gate to an experiment, each with a receipt."""
