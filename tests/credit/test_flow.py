"""The flow of a trace against sums over every path, dense solves and drawn walks, and what has to hold anyway."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noria.credit.scores.flow import answer_nodes, as_rows, trace_flow
from noria.credit.types import Fallback


def attention(batch: int, tokens: int, *, seed: int = 0, valid: Tensor | None = None) -> Tensor:
    """Causal attention at random, rows summing to one, nothing on padding."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(batch, tokens, tokens, generator=generator)
    allowed = torch.ones(tokens, tokens).tril().bool().expand(batch, -1, -1)
    if valid is not None:
        allowed = allowed & valid[:, None, :] & valid[:, :, None]
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0)


def at(batch: int, tokens: int, *places: Any) -> Tensor:
    """A mask with True at the given places, for every row alike."""
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    for place in places:
        mask[:, place] = True
    return mask


def edges(matrix: Tensor, answer: Tensor) -> Tensor:
    """L of one sequence in double precision."""
    lower = matrix.double().tril(-1)
    lower[:, answer] = 0
    return lower


def dense(matrix: Tensor, question: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """h and f of one sequence by general linear solves."""
    lower = edges(matrix, answer)
    eye = torch.eye(len(lower), dtype=torch.float64)
    reach = torch.linalg.solve(eye - lower.T, answer.double())
    sources = question & (reach > 1e-12)
    moved = (lower * reach[:, None] / reach.clamp(min=1e-300)).T  # [from, to]
    flow = torch.linalg.solve(eye - moved.T, sources.double() / sources.sum())
    return reach, flow


def paths(lower: Tensor, start: int, ends: set[int]) -> list[tuple[list[int], float]]:
    """Every path from `start` forward to one of the ends, with the product of its edges."""
    found = [([start], 1.0)] if start in ends else []
    for after in range(start + 1, len(lower)):
        if lower[after, start]:
            found += [
                ([start, *path], float(lower[after, start]) * weight)
                for path, weight in paths(lower, after, ends)
            ]
    return found


def test_the_flow_is_the_sum_over_all_paths() -> None:
    matrix, question, answer = attention(1, 7, seed=3), at(1, 7, [0, 1]), at(1, 7, [4, 6])
    found = trace_flow(matrix, question, answer, block=3)
    lower, ends = edges(matrix[0], answer[0]), {4, 6}
    everything = {i: paths(lower, i, ends) for i in range(7)}
    reach = {i: sum(weight for _, weight in ways) for i, ways in everything.items()}
    assert found.reach[0].tolist() == pytest.approx(list(reach.values()), abs=1e-6)
    # A path's share of the flow is its share of the ways from its source, each source sending half.
    flow = [0.0] * 7
    for source in (0, 1):
        for path, weight in everything[source]:
            for token in path:
                flow[token] += 0.5 * weight / reach[source]
    assert found.flow[0].tolist() == pytest.approx(flow, abs=1e-6)
    mean = sum(0.5 * weight / reach[s] * len(path) for s in (0, 1) for path, weight in everything[s])
    assert float(found.path_length[0]) == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("block", [1, 3, 16, 64])
def test_ragged_rows_are_what_each_is_alone_whatever_the_block(block: int) -> None:
    valid = torch.ones(4, 23, dtype=torch.bool)
    valid[1, :9] = False  # padded on the left
    valid[2, 15:] = False  # and on the right
    valid[3, :4] = valid[3, 20:] = False
    matrix = attention(4, 23, seed=1, valid=valid)
    question, answer = torch.zeros_like(valid), torch.zeros_like(valid)
    for row, (first, last) in enumerate(((0, 22), (9, 22), (0, 14), (4, 19))):
        question[row, first : first + 4] = True
        answer[row, [last - 3, last - 2]] = True
    found = trace_flow(matrix, question, answer, valid=valid, block=block)
    for row in range(4):
        kept = valid[row]
        reach, flow = dense(matrix[row][kept][:, kept], question[row, kept], answer[row, kept])
        torch.testing.assert_close(found.reach[row, kept].double(), reach, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.flow[row, kept].double(), flow, atol=1e-6, rtol=1e-5)
        assert not found.flow[row, ~kept].any()
    assert len(found.fallback) == 4
    assert set(found.fallback.tolist()) == {0}


@given(
    st.integers(2, 24), st.integers(1, 9), st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 0.3])
)
@settings(max_examples=60, deadline=None)
def test_what_leaves_the_question_arrives(
    tokens: int, block: int, seed: int, absorbing: bool, emission: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = attention(3, tokens, seed=seed)
    split = int(torch.randint(1, tokens, (1,), generator=generator))
    question = at(3, tokens, slice(0, split))
    answer = torch.zeros_like(question)
    answer[:, split:] = torch.rand(3, tokens - split, generator=generator) < 0.4
    answer[:, -1] = True
    response = at(3, tokens, slice(split, tokens))
    found = trace_flow(
        matrix, question, answer, absorbing=absorbing, emission=emission, response=response, block=block
    )
    assert set(found.fallback.tolist()) == {0}
    torch.testing.assert_close(found.arrived, torch.ones(3), atol=2e-5, rtol=0)
    # Local conservation (Theorem 3.1), edge by edge: what comes in goes on, but for what ends at an answer.
    walk = matrix.tril(-1)
    if emission:
        walk[:, split:] *= 1 - emission
        for k in range(max(split, 1), tokens):
            walk[:, k, k - 1] += emission
    if absorbing:
        walk = walk * ~answer[:, None, :]
    moved = found.potential[:, None, :] * walk * found.reach[:, :, None]  # [to, from]
    torch.testing.assert_close(found.injected + moved.sum(2), found.flow, atol=1e-5, rtol=1e-4)
    ended = torch.where(answer, found.potential, 0.0)
    torch.testing.assert_close(moved.sum(1) + ended, found.flow, atol=1e-5, rtol=1e-4)
    # Reach is bounded by the number of answers, so that nothing overflows at any length.
    assert float(found.reach.max()) <= float(answer.sum(1).max()) + 1e-4


def test_flow_is_the_backward_walk_reversed_in_time() -> None:
    matrix, question, answer = attention(1, 9, seed=5), at(1, 9, [0, 1, 2]), at(1, 9, [7])
    found = trace_flow(matrix, question, answer)
    generator = torch.Generator().manual_seed(0)
    number = 60_000
    place = torch.full((number,), 7)
    alive, visits = torch.ones(number, dtype=torch.bool), torch.zeros(number, 9)
    for _ in range(9):
        visits[torch.arange(number)[alive], place[alive]] += 1
        drawn = torch.multinomial(matrix[0][place], 1, generator=generator)[:, 0]
        alive &= drawn < place  # the diagonal is where the walk ends
        place = torch.where(alive, drawn, place)
    torch.testing.assert_close(visits.mean(0), found.reach[0], atol=0.01, rtol=0)
    # Walks that visit a question token, each weighed by 1/(|Q| h), pass the others in proportion to the flow.
    passes = torch.zeros(9)
    for source in (0, 1, 2):
        through = visits[:, source] > 0
        later = visits[through].mean(0)
        later[:source] = 0
        passes += later / 3
    torch.testing.assert_close(passes, found.flow[0], atol=0.02, rtol=0)


def test_how_much_a_question_token_is_looked_at_does_not_move_the_flow() -> None:
    matrix, question, answer = attention(1, 12, seed=2), at(1, 12, slice(0, 4)), at(1, 12, [11])
    louder = matrix.clone()
    louder[0, 4:, 0] *= (
        0.01  # seen by the response only: the first of them, so that no path to another source runs there
    )
    louder[0, 1:4, 0] = 0
    plain = matrix.clone()
    plain[0, 1:4, 0] = 0
    torch.testing.assert_close(
        trace_flow(louder, question, answer).flow,
        trace_flow(plain, question, answer).flow,
        atol=1e-6,
        rtol=1e-5,
    )


def test_what_cannot_reach_the_answer_gets_nothing_and_what_passes_on_counts_twice() -> None:
    matrix, question, answer = attention(1, 10, seed=4), at(1, 10, slice(0, 3)), at(1, 10, [8])
    matrix[0, 6:, 5] = 0  # token 5 is a dead branch
    found = trace_flow(matrix, question, answer)
    assert found.flow[0, 5] == 0
    assert found.flow[0, 9] == 0  # behind the answer
    torch.testing.assert_close(found.throughput[0, :8], 2 * found.flow[0, :8])
    assert found.throughput[0, 8] == found.flow[0, 8] == pytest.approx(1, abs=1e-6)
    passed = trace_flow(matrix, question, at(1, 10, [6, 8]), absorbing=False)
    outflow = passed.throughput[0, 6] - passed.flow[0, 6]
    assert 0 < float(outflow) < float(passed.flow[0, 6])


def test_packed_sequences_are_the_same_as_rows_of_their_own() -> None:
    lengths = [7, 5, 9]
    apart = [attention(1, n, seed=n)[0] for n in lengths]
    packed = torch.block_diag(*apart)[None]
    sequence = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    question, answer, response = (torch.zeros(1, 21, dtype=torch.bool) for _ in range(3))
    for start, n in zip((0, 7, 12), lengths, strict=True):
        question[0, start : start + 2] = True
        response[0, start + 2 : start + n] = True
        answer[0, start + n - 2] = True
    found = trace_flow(packed, question, answer, sequence=sequence, emission=0.2, response=response, block=4)
    for number, (matrix, n) in enumerate(zip(apart, lengths, strict=True)):
        alone = trace_flow(
            matrix[None], at(1, n, [0, 1]), at(1, n, [n - 2]), emission=0.2, response=at(1, n, slice(2, n))
        )
        torch.testing.assert_close(found.flow[sequence == number], alone.flow[0])
    assert found.fallback.tolist() == [0, 0, 0]


def test_the_emission_edge_is_a_step_back_to_the_position_that_wrote_the_token() -> None:
    matrix = torch.eye(5)[None].clone()  # nobody looks back: without the edge nothing is reached
    question, answer, response = at(1, 5, [0, 1]), at(1, 5, [4]), at(1, 5, [2, 3, 4])
    assert trace_flow(matrix, question, answer).fallback.tolist() == [Fallback.UNREACHABLE]
    found = trace_flow(matrix, question, answer, emission=0.3, response=response)
    assert found.reach[0].tolist() == pytest.approx([0, 0.027, 0.09, 0.3, 1])
    assert found.flow[0].tolist() == pytest.approx([0, 1, 1, 1, 1])
    assert found.lost.tolist() == [0.5]  # token 0 was not written by anyone


def test_predictor_rows_are_one_before_and_stay_in_their_sequence() -> None:
    answer = torch.tensor([[True, False, False, True, True, False]])
    assert answer_nodes(answer, "token") is answer
    assert answer_nodes(answer, "predictor").int().tolist() == [[0, 0, 1, 1, 0, 0]]
    packed = torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert answer_nodes(answer, "predictor", packed).int().tolist() == [[0, 0, 0, 1, 0, 0]]


def test_every_fallback_is_counted_and_spoils_no_other_row() -> None:
    matrix = attention(7, 8, seed=6)
    question, answer = at(7, 8, [0, 1]), at(7, 8, [6])
    valid = torch.ones_like(question)
    question[1] = False
    answer[2] = False
    matrix[3, 6, :6] = 0  # the answer looks at itself only
    matrix[4, 5, 2] = torch.nan
    valid[5] = False
    matrix[5] = torch.nan  # what attention makes of a row of padding
    valid[6, :3] = False
    matrix[6, :3] = torch.nan
    question[6, 3] = True
    found = trace_flow(matrix, question, answer, valid=valid, known=torch.zeros(7, dtype=torch.long))
    none, q, a, u, n, padding, left = found.fallback.tolist()
    assert (none, left) == (Fallback.NONE, Fallback.NONE)
    assert (q, a, u, n) == (
        Fallback.NO_QUESTION,
        Fallback.NO_ANSWER,
        Fallback.UNREACHABLE,
        Fallback.NOT_FINITE,
    )
    assert padding == Fallback.NO_ANSWER
    counts = {reason.name.lower(): int((found.fallback == reason).sum()) for reason in Fallback if reason}
    assert {"sequences": len(found.fallback)} | counts == {
        "sequences": 7,
        "no_answer": 2,
        "no_question": 1,
        "not_finite": 1,
        "unreachable": 1,
        "doubt": 0,
        "bad_answer": 0,
        "long_answer": 0,
        "no_response": 0,
    }
    assert torch.isfinite(found.flow).all()
    for row in (1, 2, 3, 4, 5):
        assert not found.flow[row].any()
    alone = trace_flow(matrix[:1], question[:1], answer[:1])
    torch.testing.assert_close(found.flow[:1], alone.flow)
    part = trace_flow(matrix[6:, 3:, 3:], question[6:, 3:], answer[6:, 3:])
    torch.testing.assert_close(found.flow[6:, 3:], part.flow)


def test_attention_that_breaks_conservation_is_doubted() -> None:
    matrix = attention(1, 6, seed=1)
    # Rows that are one thing on the way back and another on the way forth, as from a model that is not deterministic.
    calls = []

    def rows(start: int, stop: int) -> Tensor:
        calls.append(start)
        return matrix[:, start:stop, :stop] * (1 if len(calls) < 4 else 1.5)

    found = trace_flow(rows, at(1, 6, [0]), at(1, 6, [5]), block=2)
    assert found.fallback.tolist() == [Fallback.DOUBT]


def test_known_reasons_stay_known() -> None:
    matrix = attention(2, 5)
    known = torch.tensor([0, int(Fallback.LONG_ANSWER)])
    found = trace_flow(matrix, at(2, 5, [0]), at(2, 5, [4]), known=known)
    assert found.fallback.tolist() == [0, Fallback.LONG_ANSWER]
    assert not found.flow[1].any()


def test_a_single_token_and_half_precision() -> None:
    one = trace_flow(torch.ones(1, 1, 1), at(1, 1, [0]), at(1, 1, [0]))
    assert one.flow.tolist() == [[1.0]]
    matrix, question, answer = attention(2, 200, seed=9), at(2, 200, slice(0, 20)), at(2, 200, [197, 198])
    exact = trace_flow(matrix, question, answer).flow
    rounded = trace_flow(matrix.bfloat16(), question, answer).flow
    assert float((rounded - exact).abs().sum() / exact.abs().sum()) < 4e-3
    same = trace_flow(as_rows(matrix), question, answer, block=7).flow
    torch.testing.assert_close(same, exact, atol=1e-6, rtol=1e-5)


def test_mass_arrives_to_single_precision_over_thousands_of_tokens() -> None:
    matrix, question, answer = (
        attention(1, 3000, seed=11),
        at(1, 3000, slice(0, 300)),
        at(1, 3000, slice(2990, 2994)),
    )
    found = trace_flow(matrix, question, answer)
    assert abs(float(found.arrived) - 1) < 1e-5


def test_emission_needs_to_know_who_wrote_what() -> None:
    with pytest.raises(ValueError):
        trace_flow(attention(1, 4), at(1, 4, [0]), at(1, 4, [3]), emission=0.3)
