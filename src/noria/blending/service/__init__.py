"""The service: ranks over HTTP, logs exposures and outcomes, and publishes what serves next."""
