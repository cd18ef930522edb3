"""The mathematics of distribution matching: pure functions of tensors and given random numbers."""
