"""The fused TV loss: its twin in PyTorch against the textbook, and the Triton kernel against the twin."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from noria.core.errors import DataError
from noria.mtp.training import kernels
from noria.mtp.training.kernels import available
from tests.mtp import tv_twin
from tests.mtp.logit_losses import row_losses

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed here (it comes with CUDA builds)",
)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def gradient(
    student: Tensor, teacher: Tensor, weights: Tensor, by: Any = tv_twin, **options: Any
) -> tuple[Tensor, Tensor]:
    """d_TV of each row, NaN where it is not finite, and its gradient times the weights."""
    stats = by.tv_forward(student, teacher, **options)
    loss = torch.where(stats.finite, (1 - stats.overlap).clamp(min=0), torch.nan)
    return loss, by.tv_backward(student, teacher, stats, weights, **options)


# --- the twin ------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 5.0, 30.0]), st.integers(1, 70))
@settings(deadline=None)
def test_tiles_of_any_width_are_one_softmax(seed: int, spread: float, vocab: int) -> None:
    z, t = spread * normal(3, vocab, seed=seed), spread * normal(3, vocab, seed=seed + 1)
    q, p = z.double().softmax(-1), t.double().softmax(-1)
    slope = normal(3, seed=seed + 2)
    below = torch.where(q <= p, q, 0).sum(-1, keepdim=True)
    expected = slope[:, None] * q * (below - 1 + (q > p))
    for block in (1, 8, 64, 128):
        stats = tv_twin.tv_forward(z, t, block=block)
        torch.testing.assert_close(stats.overlap.double(), torch.minimum(p, q).sum(-1), atol=2e-6, rtol=0)
        log_sum = stats.student_max + stats.student_sum.log()
        torch.testing.assert_close(log_sum, z.logsumexp(-1), atol=1e-5, rtol=1e-5)
        g = tv_twin.tv_backward(z, t, stats, slope, block=block)
        torch.testing.assert_close(g.double(), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_tv_loss_of_the_zoo(dtype: torch.dtype) -> None:
    z, t, weights = (
        3 * normal(6, 5000, dtype=dtype),
        3 * normal(6, 5000, seed=1, dtype=dtype),
        normal(6, seed=2),
    )
    loss, g = gradient(z, t, weights)
    x = z.clone().requires_grad_()
    expected = row_losses("tv", x, t)
    torch.testing.assert_close(loss, expected.detach(), atol=2e-6, rtol=0)
    (g_expected,) = torch.autograd.grad((expected * weights).sum(), x)
    assert g.dtype == dtype
    torch.testing.assert_close(g, g_expected, atol=1e-7, rtol=2 * torch.finfo(dtype).eps)


def test_equal_rows_lose_nothing_and_push_nowhere() -> None:
    z = normal(4, 300)
    loss, g = gradient(z, z, torch.ones(4))
    assert loss.abs().max() < 1e-6
    assert g.abs().max() < 1e-7


def test_padding_and_sick_rows_stay_out_of_it() -> None:
    """A row with NaN, +∞ or only −∞ is NaN without gradient; whatever stands in the padding does not matter."""
    z, t = normal(6, 40), normal(6, 40, seed=1)
    z[:, 30:], t[:, 30:] = math.nan, 1e30
    z[1, 3], t[2, 4], z[3, :30] = math.nan, math.inf, -math.inf
    z[4, :20] = -math.inf  # tokens without probability: nothing wrong with that
    loss, g = gradient(z, t, torch.ones(6), vocab_size=30)
    assert loss.isnan().tolist() == [False, True, True, True, False, False]
    assert not g[:, 30:].any()
    assert not g[1:4].any()
    sound = [0, 4, 5]
    q, p = z[sound, :30].softmax(-1), t[sound, :30].softmax(-1)
    torch.testing.assert_close(loss[sound], 1 - torch.minimum(p, q).sum(-1))
    assert (g[sound].abs().sum(-1) > 1e-3).all()


def test_what_does_not_fit_is_said() -> None:
    z = normal(3, 8)
    for student, teacher, options in (
        (z, z[:2], {}),
        (z[0], z[0], {}),
        (z, z, {"vocab_size": 9}),
        (z, z, {"vocab_size": 0}),
        (z.T, z.T, {}),
    ):
        with pytest.raises(DataError):
            kernels.tv_forward(student, teacher, **options)


def test_no_rows_are_no_trouble() -> None:
    loss, g = gradient(normal(0, 8), normal(0, 8), torch.ones(0), kernels)
    assert loss.shape == (0,)
    assert g.shape == (0, 8)


# --- the kernel ----------------------------------------------------------------------------------------------

BY_INTERPRETER = """
import math
import torch
from noria.mtp.training import kernels
from tests.mtp import tv_twin

for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2**-7)):
    generator = torch.Generator().manual_seed(0)
    z, t = (torch.randn(7, 203, generator=generator).mul(3).to(dtype) for _ in range(2))
    t[0] = z[0]
    z[1, 3], t[2, 9], t[4] = math.nan, math.inf, -math.inf
    z[3, :190] = -math.inf
    slope = torch.randn(7, generator=generator)
    options = {"vocab_size": 200, "block": 64}
    kernel, twin = (by.tv_forward(z, t, **options) for by in (kernels, tv_twin))
    assert kernel.finite.tolist() == twin.finite.tolist() == [True, False, False, True, False, True, True]
    for name, value in vars(kernel).items():
        torch.testing.assert_close(value[kernel.finite], getattr(twin, name)[kernel.finite], atol=1e-6, rtol=1e-6)
    ours, theirs = (by.tv_backward(z, t, kernel, slope, **options) for by in (kernels, tv_twin))
    assert ours.dtype == dtype
    assert not ours[:, 200:].any() and not ours[~kernel.finite].any() and ours[5].any()
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=tolerance)
print("agreed")
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from noria.mtp.training import kernels

numbers = dict.fromkeys(["rows", "vocab", "student_stride", "teacher_stride"], "i32")
forward = {"student": "*bf16", "teacher": "*bf16", "stats": "*fp32", **numbers, "floor": "fp32", "BLOCK": "constexpr"}
backward = {"student": "*bf16", "teacher": "*bf16", "out": "*bf16", "stats": "*fp32", "below": "*fp32",
            "gradient": "*fp32", "finite": "*i32", **numbers, "out_stride": "i32", "BLOCK": "constexpr"}
for kernel, signature in ((kernels._forward_jit, forward), (kernels._backward_jit, backward)):
    source = ASTSource(kernel, signature, constexprs={"BLOCK": kernels.BLOCK})
    assert "ptx" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm
print("compiled")
"""


def run(script: str, **environment: str) -> str:
    """Of its own process: Triton looks for the interpreter when it is imported."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_triton
def test_the_kernel_is_its_twin_by_tritons_interpreter() -> None:
    assert run(BY_INTERPRETER, TRITON_INTERPRET="1") == "agreed"


@needs_triton
def test_the_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    assert run(COMPILE, TRITON_INTERPRET="0") == "compiled"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1000, 151_936])
def test_the_kernel_is_its_twin_on_a_gpu(dtype: torch.dtype, vocab: int) -> None:
    if not available():
        pytest.skip("no Triton for this accelerator")
    z, t = (3 * normal(9, vocab, seed=n, dtype=dtype, device="cuda") for n in range(2))
    weights = normal(9, device="cuda")
    z[2, 5] = math.nan
    kernel, twin = (gradient(z, t, weights, by, vocab_size=vocab - 8) for by in (kernels, tv_twin))
    torch.testing.assert_close(kernel[0], twin[0], atol=1e-5, rtol=0, equal_nan=True)
    torch.testing.assert_close(kernel[1], twin[1], atol=1e-6, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.gpu
def test_on_a_gpu_the_zoo_uses_the_kernel() -> None:
    z, t = (3 * normal(9, 5000, seed=n) for n in range(2))
    results = []
    for device in ("cpu", "cuda"):
        x = z.to(device).requires_grad_()
        loss = row_losses("tv", x, t.to(device))
        (g,) = torch.autograd.grad(loss.sum(), x)
        results.append((loss.detach().cpu(), g.cpu()))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)
