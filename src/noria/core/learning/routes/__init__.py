"""Routes: which model answers under which prompt, tried on logged requests, and the learner that chooses one."""
