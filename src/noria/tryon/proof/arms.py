"""Arms of the proof: who sees what, and how captions are bound to their time. All train the same number of steps."""

from __future__ import annotations

from typing import Any

from noria.tryon.proof.learning import Scale

SCALES = {"quick": Scale(steps=700, judged=48), "full": Scale(steps=2000)}
SEEDS = {"quick": [1], "full": [1, 2, 3, 4, 5]}
"""Seeds that claims are judged on, each with a world of its own. Seed 0 is for tuning and for looking."""
STUDIED = 3
"""Seeds, the first of them, of an arm that is in no claim."""
TUNED_ON = (0,)
RATES = (2e-3, 1e-3, 4e-3)
"""Learning rates that each arm tries; the first is the pilot's."""
UNIT = "training steps"

ONE: dict[str, Any] = {"context": "joint", "index": "paper"}
"""The paper's form: one attention over all captions, segments numbered along the clip."""
LADDER: dict[str, Any] = ONE | {"task": "ladder", "sees": "wrist", "reads": False, "constraint": 0.0}
"""The start of the paper's ablation (its table 3): the pose alone. Each step keeps what those before it added."""
ARMS: dict[str, dict[str, Any]] = {
    "A-RoPE": ONE,
    "A-RoPE, product's default": {},
    "Bag of captions": ONE | {"mode": "none"},
    "Time stamps in text": ONE | {"mode": "none", "stamped": True},
    "Hard mask": ONE | {"mode": "mask"},
    "Relay penalty": ONE | {"mode": "relay"},
    "A-RoPE, k = 1": ONE | {"scale": 1.0},
    "A-RoPE, k = 16": ONE | {"scale": 16.0},
    "A-RoPE, anchored": ONE | {"index": "anchored"},
    "Rare actions, no constraint": ONE | {"trained_on": "sparse", "constraint": 0.0},
    "Rare actions, constraint": ONE | {"trained_on": "sparse"},
    "Rare actions, constraint 2": ONE | {"trained_on": "sparse", "constraint": 2.0},
    "Wrist path": {"task": "hands", "sees": "wrist"},
    "2-D keypoints": {"task": "hands", "sees": "keypoints"},
    "3-D hand map": {"task": "hands", "sees": "map"},
    "(a) passive clips": LADDER | {"trained_on": "passive"},
    "(b) clips with actions": LADDER,
    "(c) hands": LADDER | {"sees": "map"},
    "(d) captions by A-RoPE": LADDER | {"sees": "map", "reads": True},
    "(e) constraint": LADDER | {"sees": "map", "reads": True, "constraint": 0.5},
}
"""Settings of each arm, fields of `noria.tryon.proof.learning.Arm`. The constraint is .5 where nothing else is said."""
QUICK = ("A-RoPE", "Bag of captions", "Wrist path", "3-D hand map")

CHOSEN: dict[str, float] = dict.fromkeys(ARMS, RATES[0])
"""Learning rate of each arm in a quick proof: the pilot's for all. A full proof searches."""
LIKE = {
    "A-RoPE, product's default": "A-RoPE",
    "Hard mask": "A-RoPE",
    "A-RoPE, k = 1": "A-RoPE",
    "A-RoPE, k = 16": "A-RoPE",
    "A-RoPE, anchored": "A-RoPE",
    "Rare actions, constraint 2": "Rare actions, constraint",
    "2-D keypoints": "Wrist path",
    "(a) passive clips": "(b) clips with actions",
    "(e) constraint": "(d) captions by A-RoPE",
}
"""Arms that are in no claim: each takes the rate of the arm that it is most like."""
CHOSEN_BY = {"captions": "action_accuracy", "hands": "segment_accuracy", "ladder": "clip_accuracy"}
"""Figure by which an arm's rate is chosen, by its task; between equals the error on frames with an action decides."""
