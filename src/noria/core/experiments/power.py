"""Sample sizes and power of a comparison of two arms, to be printed before it starts.

Two means with variances v₀, v₁ and shares w₀, w₁ of n units: the difference has variance v(n) = (v₀/w₀ + v₁/w₁) / n.
A fixed-horizon test of level α finds an effect δ with power Φ(|δ|/√v − z_{1−α/2}) (its other tail is left out). A
confidence sequence finds it by the horizon with at least Φ(|δ|/√v − c), c its width in standard errors there: stopping
earlier only adds to that.
"""

from __future__ import annotations

import math

from noria.core.experiments.sequential import sequence_width

__all__ = ["fixed_power", "fixed_units", "proportion_variance", "sequential_power", "sequential_units"]


def proportion_variance(rate: float) -> float:
    """Variance of a yes/no outcome of this rate."""
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate is from 0 to 1, not {rate}")
    return rate * (1 - rate)


def fixed_power(
    units: int, effect: float, variances: tuple[float, float], *, share: float = 0.5, alpha: float = 0.05
) -> float:
    """Power of one look at `units` units.

    Args:
        units: units of both arms.
        effect: difference of the means that is to be found.
        variances: variance of a unit in the control and in the treatment.
        share: share of the treatment.
        alpha: two-sided level.
    """
    return _normal(_standardised(units, effect, variances, share) - _quantile(1 - alpha / 2))


def sequential_power(
    units: int, effect: float, variances: tuple[float, float], *, share: float = 0.5, alpha: float = 0.05
) -> float:
    """Least power of a confidence sequence that is looked at until `units`, planned for just as many."""
    width = float(sequence_width(units, units, alpha=alpha))
    return _normal(_standardised(units, effect, variances, share) - width)


def fixed_units(
    effect: float,
    variances: tuple[float, float],
    *,
    power: float = 0.8,
    share: float = 0.5,
    alpha: float = 0.05,
) -> int:
    """Units of both arms with which one look finds the effect: (z_{1−α/2} + z_power)² (v₀/w₀ + v₁/w₁) / δ²."""
    return _units(effect, variances, share, _quantile(1 - alpha / 2) + _quantile(power))


def sequential_units(
    effect: float,
    variances: tuple[float, float],
    *,
    power: float = 0.8,
    share: float = 0.5,
    alpha: float = 0.05,
) -> int:
    """Units of both arms by which a confidence sequence finds the effect with at least this power."""
    width = float(sequence_width(1, 1, alpha=alpha))  # at its planned end the width depends on α alone
    return _units(effect, variances, share, width + _quantile(power))


def _units(effect: float, variances: tuple[float, float], share: float, errors: float) -> int:
    if effect == 0:
        raise ValueError("no number of units finds an effect of 0")
    return math.ceil((errors / effect) ** 2 * _spread(variances, share))


def _standardised(units: int, effect: float, variances: tuple[float, float], share: float) -> float:
    if units < 1:
        return 0.0
    spread = _spread(variances, share)
    return math.inf if spread == 0 else abs(effect) / math.sqrt(spread / units)


def _spread(variances: tuple[float, float], share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"a share of the treatment is between 0 and 1, not {share}")
    if min(variances) < 0:
        raise ValueError("a variance is not negative")
    return variances[0] / (1 - share) + variances[1] / share


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _quantile(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))
