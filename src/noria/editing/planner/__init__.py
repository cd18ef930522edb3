"""The planner: a vision-language model that writes plans; supervised fine-tuning, GRPO with streams, exact resume."""
