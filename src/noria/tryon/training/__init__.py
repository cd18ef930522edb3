"""Training: the objective, manifests of clips, caches by content, and the loop that resumes."""
