"""A feed from logs to prices: fit scores to completions, replay the plans, and see what a boost costs.

Run it in an empty folder: `python feed.py`. It takes about ten seconds.
"""

from __future__ import annotations

import json
from pathlib import Path

from noria.blending import Snapshot
from noria.cli import main


def noria(*arguments: object) -> None:
    """Run a verb of `noria blending` as the command line does."""
    try:
        main(["blending", *map(str, arguments)])
    except SystemExit as end:
        if end.code:
            raise


feed, runs = Path("feed"), Path("runs/blending")
noria("simulate", "--output", feed, "--requests", 600, "--overwrite")
logs = ("--exposures", feed / "exposures", "--outcomes", feed / "outcomes")
noria("fit", *logs, "--plans", feed / "plans.yaml", "--quiet")
noria(
    "attribute",
    feed / "snapshots",
    "--candidates",
    feed / "candidates",
    *logs,
    "--gain",
    "expected_gain",
    "-q",
)

snapshot = Snapshot.load(runs / "fit" / "snapshot.json")
plans = json.loads((runs / "attribute" / "results.json").read_text())["returns"]["plans"]
worst = min(plans, key=lambda plan: plan["roi"][2])
print(f"\na place is worth {snapshot.alignment.mean_value:.3f} effective completions")
print(f"{worst['plan']} returns least: {worst['roi'][0]:.2f} of its own figure for each completion it takes")
print(f"its regret is {worst['regret']:.1f}, and the log alone bounds it by {worst['bound']:.1f}")
