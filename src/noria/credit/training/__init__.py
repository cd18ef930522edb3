"""GRPO with credit of tokens, which resumes exactly."""
