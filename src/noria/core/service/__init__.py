"""HTTP services: routes behind one guard, and the process they run in."""
