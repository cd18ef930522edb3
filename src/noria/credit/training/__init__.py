"""GRPO with credit of tokens, which resumes bit for bit."""
