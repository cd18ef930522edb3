"""A procedural world: position-based cloth on a torso, hands of 21 joints that hold it or do not, six actions."""
