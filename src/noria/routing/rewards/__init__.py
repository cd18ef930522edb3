"""From rewards by component to one advantage: the mathematics of ReCal."""
