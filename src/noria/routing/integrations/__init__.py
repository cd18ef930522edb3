"""Other frameworks' trainers with calibrated rewards."""
