"""The conformance kit acquits lossless engines of every rule and convicts each of the known biases, by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from noria.core.errors import ConfigError, DataError
from noria.mtp.acceptance.sampling import SamplingParams, processed, sample
from noria.mtp.acceptance.streams import Streams
from noria.mtp.acceptance.verify import verify
from noria.mtp.engines.audit import AuditReport, audit
from noria.mtp.engines.engine import AuditRequest, Engine, Sampler, Tokens
from noria.mtp.engines.evidence import Check
from noria.mtp.types import Rule

torch.set_num_threads(1)
RULES: tuple[Rule, ...] = get_args(Rule)
VOCAB, LENGTH = 6, 5
NEVER = 5  # the target never says it

Bias = Literal[
    "draft and accept share coins",
    "accept and residual share coins",
    "q recomputed",
    "bonus of p_gamma",
    "argmax declared with softmax q",
    "block by position",
    "typical acceptance",
    "no residual",
    "temperature ignored",
    "filters ignored",
    "greedy samples",
    "log-probs of q",
    "runs past the end",
    "runs past the length",
    "ends early",
    "seeded by the row",
    "seed ignored",
    "seed forgotten",
    "seeds overlap",
    "one stream for all",
    "stale q",
    "accepts the impossible",
]


def tables(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of p and q behind the last two tokens, [vocab, vocab, vocab]; q is p with errors."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(VOCAB, VOCAB, VOCAB, generator=generator) * 1.3
    draft = target + torch.randn(VOCAB, VOCAB, VOCAB, generator=generator)
    target[..., NEVER] = -math.inf
    return target, draft


TARGET, GOOD = tables(0)
DISJOINT = torch.full((VOCAB, VOCAB, VOCAB), -math.inf)
DISJOINT[..., NEVER] = 0.0
DRAFTS = {"good": GOOD, "stale": tables(1)[1], "disjoint": DISJOINT}


def law(prefixes: Sequence[Tokens]) -> Tensor:
    last = torch.tensor([prefix[-2:] for prefix in prefixes])
    return TARGET[last[:, 0], last[:, 1]].softmax(-1)


class Table:
    """Processed distributions behind two tokens, [batch] or [batch, steps] of them."""

    def __init__(self, logits: Tensor, params: SamplingParams | list[SamplingParams]) -> None:
        self.each = not isinstance(params, SamplingParams)
        self.probs = processed(
            logits.expand(len(params), *logits.shape) if self.each else logits, params
        ).probs

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        if not self.each:
            return self.probs[a, b]
        return self.probs[torch.arange(len(a)).reshape(-1, *[1] * (a.ndim - 1)), a, b]


LAWFUL: set[Bias] = {  # what these sample follows the law
    "stale q",
    "greedy samples",
    "log-probs of q",
    "runs past the end",
    "runs past the length",
    "ends early",
    "seeded by the row",
    "seed forgotten",
    "seeds overlap",
}


@dataclass
class Toy:
    """Speculative decoding of a second-order Markov chain, by any rule and with any of the biases."""

    rule: Rule = "rejection"
    bias: Bias | None = None
    draft: Literal["good", "stale", "disjoint"] = "good"
    gamma: int = 3
    calls: int = 0

    def engine(self) -> Engine:
        return Engine(
            self.sample,
            name=f"{self.rule}, {self.bias}",
            logprobs=self.logprobs,
            batch=self.batch,
            stop=self.stop,
            stale=replace(self, draft="stale").sample,
            disjoint=replace(self, draft="disjoint").sample,
        )

    def sample(self, prompt: Sequence[int], n: int, params: SamplingParams, seed: int) -> list[list[int]]:
        return self.decode([prompt] * n, params, self.streams(seed, n))[0]

    def logprobs(
        self, prompt: Sequence[int], n: int, params: SamplingParams, seed: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        return self.decode([prompt] * n, params, self.streams(seed, n))

    def batch(self, requests: Sequence[AuditRequest]) -> list[list[int]]:
        streams = Streams.of([request.seed for request in requests])
        if self.bias == "seeded by the row":
            streams = Streams.of([request.seed + row for row, request in enumerate(requests)])
        return self.decode([r.prompt for r in requests], [r.params for r in requests], streams)[0]

    def stop(
        self, prompt: Sequence[int], n: int, params: SamplingParams, seed: int, end: int, length: int
    ) -> list[list[int]]:
        eos = () if self.bias == "runs past the end" else (end,)
        if self.bias == "runs past the length":
            length = length + 1
        sequences = self.decode([prompt] * n, params, self.streams(seed, n), eos, length)[0]
        return [s[:-1] if self.bias == "ends early" and len(s) > 1 else s for s in sequences]

    def streams(self, seed: int, n: int) -> Streams:
        self.calls += 1
        match self.bias:
            case "seed ignored":
                seed = 7
            case "seed forgotten":
                seed = 7 + self.calls
            case "seeds overlap":
                return Streams.of(range(seed, seed + n))
            case "one stream for all":
                return Streams.of([seed] * n)
        return Streams.derived(seed, n)

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | list[SamplingParams],
        streams: Streams,
        eos: Sequence[int] = (),
        length: int = LENGTH,
    ) -> tuple[list[list[int]], list[list[float]]]:
        bias, n, gamma = self.bias, len(prompts), self.gamma
        if isinstance(params, SamplingParams):
            if bias == "temperature ignored" and not params.greedy:
                params = replace(params, temperature=1.0)
            if bias == "filters ignored":
                params = SamplingParams(temperature=params.temperature)
            if bias == "greedy samples" and params.greedy:
                params = SamplingParams(temperature=0.3)
        p, q = (Table(logits, params) for logits in (TARGET, DRAFTS[self.draft]))
        text = torch.cat([torch.tensor(prompts), torch.zeros(n, length + gamma + 1).long()], 1)
        logs = torch.zeros(n, length + gamma + 1)
        begin, made, active = len(prompts[0]), torch.zeros(n).long(), torch.ones(n).bool()
        rows = torch.arange(n)
        fresh = self.rule == "block" and bias != "block by position"
        while active.any():
            at = made + begin
            u = streams.uniforms("draft", made, gamma, per_round=fresh)
            accept = streams.uniforms("accept", made, gamma, per_round=fresh)
            residual = streams.uniforms("residual", made, gamma + 1, per_round=fresh)
            seen, steps = [text[rows, at - 2], text[rows, at - 1]], []
            for i in range(gamma):
                probs = q(seen[-2], seen[-1])
                greedy = self.rule == "target_only" or bias == "argmax declared with softmax q"
                seen.append(probs.argmax(-1) if greedy else sample(probs, u[:, i]))
                steps.append(probs)
            drafts, draft = torch.stack(seen[2:], 1), torch.stack(steps, 1)
            context = torch.stack(seen, 1)
            target = p(context[:, :-1], context[:, 1:])
            match bias:
                case "draft and accept share coins":
                    accept = u
                case "accept and residual share coins":
                    residual = torch.cat([accept, residual[:, -1:]], 1)
                case "q recomputed":
                    draft = draft**0.7 / (draft**0.7).sum(-1, keepdim=True)
                case "stale q" if self.draft == "stale":
                    draft = Table(DRAFTS["good"], params)(context[:, :-2], context[:, 1:-1])
                case "bonus of p_gamma":
                    target[:, gamma] = target[:, gamma - 1]
                case "typical acceptance":
                    accept = torch.where(
                        target[:, :gamma].gather(2, drafts[..., None])[..., 0] > 0.2, 0, accept
                    )
                case "no residual":
                    refuse = torch.full_like(accept, 1.0)
                    ratio = (target[:, :gamma] / draft).gather(2, drafts[..., None])[..., 0]
                    accept = torch.where(accept < ratio, 0.0, refuse)
                    draft = draft * 1e-6
                    accept = torch.where(accept > 0, 1e9, 0.0)
                case "accepts the impossible":
                    target = target * 0.98 + 0.02 / VOCAB
            remaining = torch.where(active, length - made, 0)
            verdict = verify(
                drafts,
                target,
                draft,
                rule=self.rule,
                accept=accept,
                residual=residual,
                remaining=remaining,
                eos=eos,
            )
            if bias == "log-probs of q":
                said = torch.cat([draft, target[:, -1:]], 1)
                verdict.logprobs.copy_(said.gather(2, verdict.tokens.clamp(min=0)[..., None])[..., 0].log())
            for i in range(gamma + 1):
                new = verdict.lengths > i
                text[rows[new], at[new] + i] = verdict.tokens[new, i]
                logs[rows[new], made[new] + i] = verdict.logprobs[new, i]
            made = made + verdict.lengths
            active &= ~verdict.finished
        counts = made.tolist()
        return (
            [row[:k] for row, k in zip(text[:, begin:].tolist(), counts, strict=True)],
            [row[:k] for row, k in zip(logs.tolist(), counts, strict=True)],
        )


PROMPT = (0, 1)


def report(toy: Toy, seed: int = 0, samples: int = 1000, offers: str = "") -> AuditReport:
    """Of an engine that offers `sample`, and what is named of the rest."""
    full = toy.engine()
    rest = {name: getattr(full, name) for name in offers.split()}
    return audit(Engine(full.sample, full.name, **rest), law, [PROMPT], samples=samples, seed=1000 * seed)


# --- verdicts -----------------------------------------------------------------------------------------------------


EVERYTHING = "logprobs batch stop stale disjoint"


@pytest.mark.parametrize("rule", RULES)
def test_a_lossless_engine_is_acquitted(rule: Rule) -> None:
    found = report(Toy(rule), offers=EVERYTHING)
    assert found.verdict == "pass", found.table()
    assert len(found.checks) == 21


@pytest.mark.parametrize("seed", range(1, 3))
@pytest.mark.parametrize("rule", RULES)
def test_another_seed_changes_no_acquittal(rule: Rule, seed: int) -> None:
    assert not report(Toy(rule), seed, samples=600, offers="stale").failures()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("rule", "bias", "check"),
    [
        ("rejection", "draft and accept share coins", "law of tokens 1 to 3"),
        ("rejection", "q recomputed", "law of tokens 1"),
        ("rejection", "bonus of p_gamma", "law of tokens 1 to 2"),
        ("rejection", "argmax declared with softmax q", "law of tokens 1"),
    ],
)
def test_the_biases_of_the_field_are_convicted(rule: Rule, bias: Bias, check: str, seed: int) -> None:
    found = report(Toy(rule, bias, gamma=1 if "bonus" in bias else 3), seed)
    assert found.verdict == "fail"
    assert check in found.failures(), found.table()


@pytest.mark.parametrize(
    ("rule", "bias", "offers", "checks"),
    [
        ("block", "draft and accept share coins", "", ["law of tokens 1 to 3"]),
        ("block", "q recomputed", "", ["law of tokens 1"]),
        ("block", "bonus of p_gamma", "", ["law of tokens 1 to 4"]),
        ("block", "argmax declared with softmax q", "", ["law of tokens 1"]),
        ("rejection", "accept and residual share coins", "", ["law of tokens 1"]),
        ("rejection", "typical acceptance", "", ["law of tokens 1", "law of every position"]),
        ("rejection", "no residual", "", ["law of tokens 1"]),
        ("rejection", "stale q", "stale", ["stale draft"]),
        ("rejection", "accepts the impossible", "disjoint", ["law of tokens 1", "disjoint supports"]),
        ("rejection", "temperature ignored", "", ["temperature below 1", "temperature above 1"]),
        ("match", "filters ignored", "", ["top-k", "top-p", "min-p", "all filters"]),
        ("match", "greedy samples", "", ["greedy is the argmax"]),
        ("rejection", "log-probs of q", "logprobs", ["log-probabilities"]),
        ("rejection", "runs past the end", "stop", ["end token and length"]),
        ("rejection", "runs past the length", "stop", ["end token and length"]),
        ("rejection", "ends early", "stop", ["end token and length"]),
        ("rejection", "seeded by the row", "batch", ["batches do not matter"]),
        ("match", "seed ignored", "", ["other seeds, other tokens"]),
        ("match", "seed forgotten", "", ["same seed, same tokens"]),
        ("match", "seeds overlap", "", ["other seeds, other tokens"]),
        ("match", "one stream for all", "", ["samples are independent", "law of tokens 1"]),
    ],
)
def test_a_fault_is_convicted_under_its_name(rule: Rule, bias: Bias, offers: str, checks: list[str]) -> None:
    found = report(
        Toy(rule, bias), samples=300 if bias in LAWFUL and bias != "stale q" else 1000, offers=offers
    )
    assert found.verdict == "fail"
    assert set(checks) <= set(found.failures()), found.table()
    if bias in LAWFUL:
        assert set(found.failures()) == set(checks), found.table()


def test_block_verification_needs_numbers_of_its_own_each_round() -> None:
    """Numbers by position are biased there: drafts that were looked at and thrown away are drawn again."""
    found = report(Toy("block", "block by position"), samples=8000)
    assert "law of tokens 1 to 3" in found.failures(), found.table()
    assert "law of tokens 1" not in found.failures()


# --- what could not be checked --------------------------------------------------------------------------------


def test_what_was_not_checked_is_no_pass() -> None:
    found = audit(Toy().sample, law, [PROMPT], samples=1000)
    missing = {check.name: check.detail for check in found.checks if check.passed is None}
    assert set(missing) == {
        "end token and length",
        "law with an end token",
        "log-probabilities",
        "batches do not matter",
        "stale draft",
        "disjoint supports",
    }
    assert "offers no `stop`" in missing["end token and length"]
    assert found.verdict == "incomplete"
    assert not found.failures()


def test_an_engine_that_cannot_answer_is_neither_acquitted_nor_convicted() -> None:
    """It raises on temperatures; the rest goes on."""

    def picky(prompt: Sequence[int], n: int, params: SamplingParams, seed: int) -> list[list[int]]:
        if params.temperature > 1:
            raise RuntimeError("too\nhot")
        return Toy().sample(prompt, n, params, seed)

    found = {check.name: check for check in audit(picky, law, [PROMPT], samples=500).checks}
    assert found["temperature above 1"].passed is None
    assert found["temperature above 1"].detail == "the engine raised RuntimeError: too hot"
    assert found["top-k"].passed


def test_too_few_samples_decide_nothing() -> None:
    found = {check.name: check for check in audit(Toy().sample, law, [PROMPT], samples=5).checks}
    assert found["law of tokens 1"].passed is None
    assert "too few" in found["law of tokens 1"].detail
    assert found["same seed, same tokens"].passed


def test_sequences_too_short_for_a_law_leave_it_unchecked() -> None:
    def short(prompt: Sequence[int], n: int, params: SamplingParams, seed: int) -> list[list[int]]:
        return [s[:2] for s in Toy().sample(prompt, n, params, seed)]

    found = {check.name: check for check in audit(short, law, [PROMPT], samples=500).checks}
    assert found["law of tokens 1 to 2"].passed
    assert found["law of tokens 1 to 3"].passed is None
    assert "2 tokens" in found["law of tokens 1 to 3"].detail


def test_a_target_without_chance_is_not_tested_for_chance() -> None:
    def certain(prefixes: Sequence[Tokens]) -> Tensor:
        return torch.eye(3)[[len(prefix) % 3 for prefix in prefixes]]

    def engine(prompt: Sequence[int], n: int, params: SamplingParams, seed: int) -> list[list[int]]:
        return [[(len(prompt) + i) % 3 for i in range(4)]] * n

    found = {check.name: check.passed for check in audit(engine, certain, [(0,)], samples=200).checks}
    for name in (
        "law of tokens 1",
        "law of every position",
        "samples are independent",
        "other seeds, other tokens",
    ):
        assert found[name] is None, name
    assert found["same seed, same tokens"]
    assert found["greedy is the argmax"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda n: [[0, 1]] * (n - 1), "sequences came where"),
        (lambda n: [[0, 1]] * (n - 1) + [[0]], "lengths from 1 to 2"),
        (lambda n: [[]] * n, "empty"),
        (lambda n: None, "did not return sequences"),
        (lambda n: ["ab"] * n, "did not return sequences"),
        (lambda n: [[0, 99]] * n, "impossible"),
        (lambda n: [[0, -1]] * n, "impossible"),
    ],
)
def test_an_answer_in_no_usable_form_fails(answer: object, words: str) -> None:
    found = audit(lambda prompt, n, params, seed: answer(n), law, [PROMPT], samples=100)  # type: ignore[operator]
    assert found.verdict == "fail"
    assert any(words in check.detail for check in found.checks if check.passed is False), found.table()


# --- the tests themselves -------------------------------------------------------------------------------------


def plain(logits: Tensor) -> Engine:
    """Draws from `logits` (the same behind every prefix) with numpy, and owes nothing to this package's streams."""

    def draw(prompt: Sequence[int], n: int, params: SamplingParams, seed: int) -> Tensor:
        probs = processed(logits, params).probs.double().numpy()
        generator = np.random.default_rng([seed, len(prompt)])
        return torch.tensor(generator.choice(len(probs), size=(n, 4), p=probs / probs.sum()))

    return Engine(draw)  # type: ignore[arg-type]


def constant(logits: Tensor) -> Callable[[Sequence[Tokens]], Tensor]:
    return lambda prefixes: logits.softmax(-1).expand(len(prefixes), -1)


def test_the_p_values_of_a_lossless_engine_are_uniform() -> None:
    """Of every statistical check, so that alpha is what it says."""
    logits = torch.tensor([1.0, 0.5, 0.2, -0.4, -1.5])
    found: dict[str, list[float]] = {}
    for seed in range(30):
        report = audit(plain(logits), constant(logits), [(0,)], samples=250, depth=3, seed=1000 * seed)
        assert not report.failures(), report.table()
        for check in report.checks:
            if check.p_value is not None and not check.name.startswith("other seeds"):
                found.setdefault(check.name, []).append(check.p_value)
    assert len(found) == 11
    for name, values in found.items():
        assert stats.kstest(values, "uniform").pvalue > 1e-3, name


def test_the_statistic_is_the_g_test_of_scipy() -> None:
    """Up to Williams' correction q, which is 1 + (Σ n/E − 1) / (6 n (k − 1))."""
    logits = torch.tensor([1.0, 0.5, 0.2, -0.4])
    engine = plain(logits)
    report = audit(engine, constant(logits), [(0,)], samples=400)
    drawn = engine.sample((0,), 400, SamplingParams(), 0)
    observed = np.bincount([int(row[0]) for row in drawn], minlength=4)
    expected = logits.double().softmax(-1).numpy() * 400
    g = stats.power_divergence(observed, expected, lambda_="log-likelihood").statistic
    q = 1 + ((400 / expected).sum() - 1) / (6 * 400 * 3)
    check = report.checks[0]
    assert check.statistic == pytest.approx(g / q, rel=1e-5)
    assert check.p_value == pytest.approx(stats.chi2.sf(g / q, 3), rel=1e-4)
    assert check.effect == pytest.approx(np.abs(observed - expected).sum() / 800, rel=1e-4)


def test_a_difference_as_large_as_it_would_notice_is_noticed() -> None:
    """The engine is off by the total variation that the report of a lossless one names."""
    logits = torch.tensor([1.0, 0.5, 0.2, -0.4])
    honest = audit(plain(logits), constant(logits), [(0,)], samples=1000).checks[0]
    notices = float(honest.detail.rpartition(" ")[2])
    probs = logits.softmax(-1)
    off = (probs + notices * torch.tensor([-1.0, 1.0, 0.0, 0.0])).log()
    caught = 0
    for seed in range(10):
        check = audit(plain(off), constant(logits), [(0,)], samples=1000, depth=1, seed=1000 * seed).checks[0]
        caught += check.p_value is not None and check.p_value < 1e-4
        assert check.effect == pytest.approx(notices, abs=0.05)
    assert caught >= 7


def test_several_prompts_share_the_samples_and_all_count() -> None:
    """An engine that is biased behind the second prompt only."""

    def two_faced(prompt: Sequence[int], n: int, params: SamplingParams, seed: int) -> list[list[int]]:
        bias: Bias | None = "no residual" if tuple(prompt) == (2, 3) else None
        return Toy("rejection", bias).sample(prompt, n, params, seed)

    assert "law of tokens 1 to 2" in audit(two_faced, law, [PROMPT, (2, 3)], samples=1200).failures()
    found = audit(Toy().engine(), law, [PROMPT, (2, 3)], samples=800)
    assert found.verdict == "pass", found.table()
    assert found.checks[0].detail.startswith("800 samples, 8 degrees of freedom")


def test_a_large_vocabulary_is_tested_where_its_mass_is() -> None:
    """8,000 tokens: a cell each for the likely, one for the rest; a wrong temperature is still convicted."""
    logits = 3.0 * torch.randn(8_000, generator=torch.Generator().manual_seed(0))
    asked: list[int] = []

    def counted(prefixes: Sequence[Tokens]) -> Tensor:
        asked.append(len(prefixes))
        return constant(logits)(prefixes)

    found = audit(plain(logits), counted, [(0,)], samples=400, depth=2, prefixes=200)
    assert not found.failures(), found.table()
    assert max(asked) * 8_000 < 2**23
    wrong = audit(plain(1.2 * logits), constant(logits), [(0,)], samples=400, depth=2, prefixes=200)
    assert {"law of tokens 1", "law of every position"} <= set(wrong.failures()), wrong.table()


def test_thresholds_on_a_tokens_edge_are_avoided() -> None:
    """Equal tokens: whether .7 of the mass takes 7 or 8 of 10 is round-off, and top-k has no answer."""
    logits = torch.zeros(10)
    found = {c.name: c for c in audit(plain(logits), constant(logits), [(0,)], samples=300).checks}
    assert found["top-k"].passed is None
    assert "round-off" in found["top-k"].detail
    assert found["min-p"].passed


def test_a_prefix_on_an_edge_is_left_out_and_the_others_are_tested() -> None:
    """Behind token 0 all twenty are equal, so that every top-p stands on an edge there; the first token is clear."""
    generator = torch.Generator().manual_seed(4)
    table = torch.randn(20, 20, generator=generator)
    table[0] = 0.0

    def law(prefixes: Sequence[Tokens]) -> Tensor:
        return table[[prefix[-1] for prefix in prefixes]].softmax(-1)

    def sampler(filters: bool) -> Sampler:
        def run(prompt: Sequence[int], n: int, params: SamplingParams, seed: int) -> list[list[int]]:
            params = params if filters else replace(params, top_p=1.0)
            streams, last = Streams.derived(seed, n), torch.full((n,), prompt[-1])
            drawn = []
            for step in range(3):
                u = streams.uniforms("residual", torch.full((n,), step), 1)[:, 0]
                last = sample(processed(table[last], params).probs, u)
                drawn.append(last)
            return torch.stack(drawn, 1).tolist()

        return run

    for filters in (True, False):
        found = {c.name: c for c in audit(sampler(filters), law, [(5,), (0,)], samples=1000, depth=2).checks}
        assert found["top-p"].passed is filters
    edge = {c.name: c for c in audit(sampler(True), law, [(0,)], samples=300, depth=2).checks}
    assert edge["top-p"].passed is None


# --- the report -----------------------------------------------------------------------------------------------


def test_the_verdict_follows_the_checks() -> None:
    good, bad, open_ = (Check("a", passed, None, None, "") for passed in (True, False, None))
    for checks, verdict in [
        ([good], "pass"),
        ([good, open_], "incomplete"),
        ([good, bad, open_], "fail"),
        ([], "incomplete"),
    ]:
        assert AuditReport("x", tuple(checks), 1e-3).verdict == verdict


def test_the_table_and_the_json_say_the_same() -> None:
    found = report(Toy("rejection", "accepts the impossible"), samples=500)
    table, values = found.table(), json.loads(found.to_json())
    assert values["verdict"] == "fail"
    assert values["engine"] == "rejection, accepts the impossible"
    assert [c["name"] for c in values["checks"]] == [c.name for c in found.checks]
    assert len(table.splitlines()) == len(found.checks) + 2
    assert table.splitlines()[-1].startswith("rejection, accepts the impossible: fail (15 of 21 checks made")
    first = values["checks"][0]
    assert first["statistic"] is None  # ∞: tokens that the law excludes
    assert first["p_value"] == 0
    assert "impossible under the law" in first["detail"]
    for check in found.checks:
        line = next(line for line in table.splitlines() if line.startswith(check.name + " "))
        assert ("FAIL" in line) == (check.passed is False)
        assert ("not checked" in line) == (check.passed is None)


def test_holm_holds_the_family_to_alpha() -> None:
    """Raw p-values below alpha are no conviction by themselves."""
    logits = torch.tensor([0.4, 0.0, -0.3])
    smallest = []
    for seed in range(25):
        found = audit(
            plain(logits), constant(logits), [(0,)], samples=200, depth=2, seed=1000 * seed, alpha=0.05
        )
        p = sorted(c.p_value for c in found.checks if c.p_value is not None)
        smallest.append(p[0])
        assert bool(found.failures()) == (p[0] <= 0.05 / len(p))
    assert sum(p < 0.05 for p in smallest) > 3


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"samples": 0}, "samples"),
        ({"depth": 0}, "depth"),
        ({"alpha": 1.5}, "alpha"),
        ({"prefixes": 0}, "prefixes"),
    ],
)
def test_a_number_out_of_range_is_told(options: dict[str, float], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        audit(Toy().sample, law, [PROMPT], **options)  # type: ignore[arg-type]
    assert caught.value.where == where
    with pytest.raises(ConfigError):
        audit(Toy().sample, law, [])


@pytest.mark.parametrize(
    "wrong", [torch.tensor([0.5, 0.6]), torch.tensor([1.5, -0.5]), torch.tensor([math.nan, 1.0])]
)
def test_a_law_that_is_none_is_the_callers_fault(wrong: Tensor) -> None:
    with pytest.raises(DataError, match="no distribution"):
        audit(Toy().sample, lambda prefixes: wrong.expand(len(prefixes), 2), [PROMPT], samples=10)
    with pytest.raises(DataError, match="shape"):
        audit(Toy().sample, lambda prefixes: wrong, [PROMPT], samples=10)
