"""The ground floor: what the systems share. It knows no system.

Read in this order: `errors` (how a failure is told), `config` (how a job is described), `runs` (the folder a job
lives in), `progress` (what it says meanwhile), `stats` and `jobs` (intervals; work spread over processes),
`proof` and `bench` (a paper's claim and a speed figure, tested), `charts` (the page that shows both).
"""
