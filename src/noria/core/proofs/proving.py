"""Running proofs: the job behind `noria prove`, its report, and its verdicts as text."""

from __future__ import annotations

import importlib
import json
import math
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from noria.core.errors import needing
from noria.core.files import disk_errors, lock, write_atomic
from noria.core.progress import Progress, duration
from noria.core.proofs.catalogue import ProofEntry
from noria.core.proofs.proof import Claim, Evidence, ProofContext
from noria.core.proofs.report import write_report
from noria.core.runs.workers import default_workers


@dataclass(frozen=True)
class ProofResult:
    """Evidence of a run of proofs, and the two files that hold it."""

    evidences: list[Evidence]
    report: Path
    evidence: Path

    def table(self) -> str:
        """Verdicts as text: each claim, what was compared, the effect with its interval, and the checks."""
        lines = []
        for evidence in self.evidences:
            verdicts, p_values, reasons = evidence.verdicts, evidence.p_values, evidence.unfair()
            counts = Counter(verdicts.values())
            tally = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no claims"
            if evidence.checks:
                tally += (
                    f"; {sum(check.holds for check in evidence.checks)} of {len(evidence.checks)} checks hold"
                )
            lines.append(f"{evidence.system}: {tally} ({duration(evidence.seconds)})")
            for claim in evidence.claims:
                lines.append(f"  {verdicts[claim.id]:<12}  {claim.statement}")
                p = p_values[claim.id]
                lines.append(
                    f"  {'':<12}  {claim.subject} against {claim.baseline}: {_effect_in_words(claim)}"
                    + ("" if p is None else f", P {p:.2g}")
                )
                lines += [f"  {'':<12}  not alike: {reason}" for reason in reasons.get(claim.id, [])]
            lines += [
                f"  {'check holds' if check.holds else 'CHECK FAILS':<12}  {check.statement}: {check.measured}"
                for check in evidence.checks
            ]
        return "\n".join(lines)

    @property
    def failed_checks(self) -> list[str]:
        """Names of the checks that did not hold, as `system/check`."""
        return [
            f"{evidence.system}/{check.id}"
            for evidence in self.evidences
            for check in evidence.checks
            if not check.holds
        ]


def _effect_in_words(claim: Claim) -> str:
    """Format an effect and its interval: `+1.2 [+0.8, +1.6]`, or as factors `1.4× [1.1×, 1.8×]`."""

    def word(value: float) -> str:
        if claim.comparison == "log_ratio":
            return f"{math.exp(min(value, 700.0)):.3g}×"
        return f"{value:+.3g}"

    if claim.effect is None:
        return "undefined, no seed has both values"
    if claim.ci95 is None:
        return f"{word(claim.effect)}, no interval from one seed"
    return f"{word(claim.effect)} [{word(claim.ci95[0])}, {word(claim.ci95[1])}]"


def prove(
    systems: Sequence[ProofEntry],
    *,
    scale: Literal["quick", "full"] = "quick",
    seeds: list[int] | None = None,
    out: Path | None = None,
    data: Path = Path(".data"),
    workers: int | None = None,
    progress: Progress | None = None,
    given: Mapping[str, Path] | None = None,
) -> ProofResult:
    """Run the proofs of `systems` and write `report.html` and `evidence.json`.

    Args:
        systems: proofs to run, in order; see :mod:`noria.core.proofs.catalogue`.
        scale: `quick` or `full`.
        seeds: seeds of every proof; None leaves them to each.
        out: folder of the results, `runs/prove/<scale>` by default. Jobs that finished there before are not run again.
        data: folder of public data sets.
        workers: number of processes; one a core by default.
        progress: where the proofs report their progress; stderr by default.
        given: inputs that only a user can supply, by name; a proof gets those that it declares.

    Raises:
        RunError: another process is writing `out`.
    """
    command = ["noria prove", *(entry.name for entry in systems), f"--{scale}"]
    command += [] if seeds is None else [f"--seeds {len(seeds)}"]
    command += [] if out is None else [f"--out {shlex.quote(str(out))}"]
    command += [f"--{name} {shlex.quote(str(path))}" for name, path in (given or {}).items()]
    out = out or Path("runs") / "prove" / scale
    evidences: list[Evidence] = []
    with lock(out), progress or Progress() as bars:
        for entry in systems:
            bars.say(f"{entry.name}: {scale} proof")
            context = ProofContext(
                system=entry.name,
                scale=scale,
                seeds=seeds,
                folder=out / entry.name,
                data=data,
                workers=workers or default_workers(),
                progress=bars,
                given={name: path for name, path in (given or {}).items() if name in entry.inputs},
            )
            with disk_errors(context.folder):
                context.folder.mkdir(parents=True, exist_ok=True)
            with needing("proof"):
                evidence = importlib.import_module(entry.module).prove(context)
            # The time of jobs that an earlier, killed run finished counts: the proof would have taken it.
            evidences.append(replace(evidence, seconds=evidence.seconds + context.seconds_before))
            # Written after each system, so that an interrupted run shows what it has.
            content = json.dumps([evidence.to_json() for evidence in evidences], indent=1, allow_nan=False)
            write_atomic(out / "evidence.json", content + "\n")
            write_report(
                out / "report.html",
                title="Noria: claims and evidence",
                evidences=evidences,
                intro=_intro(scale),
                rerun=" ".join(command),
            )
    return ProofResult(evidences, out / "report.html", out / "evidence.json")


def _intro(scale: str) -> str:
    remark = "This is the full scale."
    if scale == "quick":
        remark = "This is the quick scale: few seeds and small budgets, so expect wide intervals."
    return (
        "Every claim is tested by arms that share data, seeds and budget, each at its best of equally many settings, "
        "tried on other seeds. The effect is how much better the subject is than the baseline, with its 95 % interval "
        "over seeds. The claims of a system are corrected together (Holm): a verdict needs a corrected P value of "
        "at most .05. "
        f"Run on {time.strftime('%d %B %Y')}, {default_workers()} cores. {remark}"
    )
