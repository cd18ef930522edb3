"""The service: ranks over HTTP, logs what was shown and what came of it, and publishes what serves next."""
