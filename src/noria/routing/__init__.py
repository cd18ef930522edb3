"""ReCal (arXiv 2606.12479): reward calibration for routers that are trained by reinforcement learning."""
