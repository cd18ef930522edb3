"""Verdicts for a pull request: JUnit for its tests, SARIF for its lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from noria import __version__
from noria.core.experiments.gates import Receipt
from noria.skills.bank.reading import Problem


def junit(receipt: Receipt, problems: Sequence[Problem]) -> str:
    """A gate's rules and the problems of skills as JUnit XML; what is missing is an error, what failed a failure."""
    cases = []
    failures = errors = 0
    for rule in receipt.rules:
        inner = ""
        if rule.outcome == "failed":
            failures += 1
            inner = f"<failure message={quoteattr(rule.found)}/>"
        elif rule.outcome == "missing":
            errors += 1
            inner = f"<error message={quoteattr(rule.found)}/>"
        cases.append(f'<testcase classname="gate" name={quoteattr(rule.name)}>{inner}</testcase>')
    for problem in problems:
        broken = problem.severity == "error"
        failures += broken
        inner = (
            f"<failure message={quoteattr(str(problem))}/>"
            if broken
            else f"<system-out>{escape(str(problem))}</system-out>"
        )
        cases.append(
            f"<testcase classname={quoteattr(problem.skill)} name={quoteattr(problem.rule)}>{inner}</testcase>"
        )
    head = f'<testsuite name="noria skills" tests="{len(cases)}" failures="{failures}" errors="{errors}">'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{"".join(cases)}</testsuite>\n'


def sarif(receipt: Receipt | None, problems: Sequence[Problem]) -> str:
    """Problems of skills, and the rules of a gate that did not pass, as SARIF 2.1.0."""
    results = [
        {
            "ruleId": f"skill/{p.rule}",
            "level": p.severity,
            "message": {"text": p.what + (f"; {p.mend}" if p.mend else "")},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": f"{p.skill}/SKILL.md"},
                        "region": {"startLine": p.line or 1},
                    }
                }
            ],
        }
        for p in problems
    ]
    for rule in receipt.rules if receipt is not None else ():
        if rule.outcome != "passed":
            text = f"{rule.name}: {rule.found}"
            results.append({"ruleId": "gate", "level": "error", "message": {"text": text}, "locations": []})
    rules = [{"id": name} for name in sorted({str(r["ruleId"]) for r in results})]
    driver = {"name": "noria skills", "version": __version__, "rules": rules}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(log, indent=1, ensure_ascii=False) + "\n"
