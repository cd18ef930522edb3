"""The ground floor: what the systems share. It knows no system.

Read in this order: `errors` (how a failure is told), `config` (how a job is described), `files`, `checkpoints`, `runs`
(the folder a job lives in, and how it survives), `progress` (what it says meanwhile), `stats` (intervals), `jobs` (work
spread over processes), `proof` and `bench` (a paper's claim, a speed figure, measured), `charts` (the page that shows
both), `flow` (flow matching).
"""
