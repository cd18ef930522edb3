"""The mathematics of timed actions: segments, rotary positions, the action-aware loss."""
