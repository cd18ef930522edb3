"""The loop: the one package that knows several systems, and holds no mathematics.

Its first room is the proof of the gates: the statistics that decide what may serve, tried on simulated turns by the
same pure functions that a service calls (`noria.core.experiments`).
"""
