"""Stores of a service: the journal of what it acknowledged, and the control state that several processes share."""
