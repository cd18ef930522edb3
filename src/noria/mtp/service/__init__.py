"""The service: a model with its heads behind OpenAI's route of chat completions, which counts what drafts met."""
