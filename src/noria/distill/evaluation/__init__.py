"""How far samples are from a reference, on the ladder of step numbers."""
