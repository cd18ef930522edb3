"""The loop: the one package that knows several systems, and holds no mathematics.

`service` is the gateway: requests, traces, feedback, experiments, the console. `companion` is the process beside it.
`parts` are the systems as parts of its pipeline, and learners of what they hold. `learning` runs a turn of the wheel,
`folder` works on a gateway's data as a whole, and `verbs` are the commands. `proof` tries the statistics that decide
what may serve (`noria.core.experiments`), on arrays and through the real service.
"""
