"""The chain: the Skill Creator, the Route Optimizer, the Body Refiner, and what holds them back."""
