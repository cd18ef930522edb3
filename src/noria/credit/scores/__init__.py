"""The flow of a response, its rivals, and the way from scores to weights of tokens."""
