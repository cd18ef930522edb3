"""The loop: the one package that knows several systems, and holds no mathematics.

`service` is the gateway: requests, traces, feedback, experiments, the console. `web` is the page for people.
`companion` is the process beside the gateway. `parts` are the systems as parts of its pipeline, `learners` what a turn
may ask to learn, `products` the catalogue of a shop. `learning` runs a turn of the wheel, `folder` works on a gateway's
data as a whole, `privacy` says what traces keep of people, and `verbs` are the commands. `world` is the simulated
shop; `proof` tries the loop on it, and the statistics that decide what may serve (`noria.core.experiments`) on arrays
and through the real service.
"""
