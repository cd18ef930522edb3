"""The process beside the gateway: it judges, decides experiments, seals traces, starts turns, and delays no request."""
