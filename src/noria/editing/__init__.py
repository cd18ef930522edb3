"""DDA-Thinker: a planner trained over a frozen image editor by atomic checklist rewards (arXiv 2604.25477).

The problem: editors render faithfully and do not reason. A planner writes the plan, a frozen editor renders it, and the
reward of the picture alone blames the wrong one. Two atomic rewards tell them apart. Rooms in the order of reading:

- `types`, `plans`: what an editor, a planner and a rendering are; think/answer outputs
- `data`: tasks (the data schema), their pictures
- `checklists`: items, verifiers, synthesis, validation (null test, positive control, negation flip, mutations)
- `rewards`: r_cog (eq. 1) and r_vis (eq. 2) with invalid verdicts masked; streams and advantages (eq. 3)
"""
