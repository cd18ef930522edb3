"""What two or more systems share. It knows no system and no command line.

Read in this order: `errors` and `config` (settings, and what is wrong with them), `files` and `records`, `runs` (the
folder of a job, its checkpoints, work over processes), `progress`, `statistics`, `proofs` (a paper's claim or a speed,
measured) and `pages` (where both are shown), `models` and `training`, `chat`, `judging` and `tools`,
`service`, `storage`, `traces`, `versions` and `experiments` (what a service keeps and tries), `learning` (a turn).
"""
