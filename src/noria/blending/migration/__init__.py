"""From another system's boosts to plans that keep their shares."""
