"""Use of a planner and an editor together: plan, edit, check, try again, choose the best, undo."""
