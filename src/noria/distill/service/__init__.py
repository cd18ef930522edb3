"""The service: a student, or a whole pipeline, as one OpenAI-compatible server that draws in batches."""
