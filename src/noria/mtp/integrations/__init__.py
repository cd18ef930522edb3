"""Other frameworks' trainers with drafted rollouts."""
