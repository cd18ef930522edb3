"""SkillChain: an assistant's skills, written from tasks and repaired from its own judged traffic.

A skill is a folder with a `SKILL.md`, by the written standard of Agent Skills. Stage 1 writes skills from task
specifications and trajectories, stage 2 repairs descriptions from real misroutes, and stage 3 repairs bodies from
judged answers. A stage can change its own component only, every change passes a gate, and every version can be put
back.

| room | what it is |
| --- | --- |
| `bank` | skills as folders, byte for byte; versions, ledger, differences, roll-back |
| `routing` | routers over a catalogue, calibrated; confusion over the whole bank |
| `judging` | rules and judges of answers, tiers, attribution of failures, quality of judges |
| `proposing` | who writes: templates or a chat model, and what a proposal may not do |
| `stages` | the three stages, their gates, the queue of missing skills, online reading |
| `traffic` | samples, pools by leakage group, transcripts, drift |
| `integrations` | GEPA, inspect_ai, MCP |
| `verbs`, `proof` | a file a verb of `noria skills`; the claims, tested |
"""
