"""The environment of a planner: rendering and judging overlapped, within deadlines, each failure counted."""
