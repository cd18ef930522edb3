"""The service: planner and editor as one OpenAI-compatible editor whose plan can be seen."""
