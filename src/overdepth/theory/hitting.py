r"""When a balanced mode arrives: the plateau near zero in closed form.

u' = N u^{2-2/N} (s - u) has the solution t(u) = (G(u) - G(u_0)) / N, with G(u) = \int du u^{c-1} / (s - u) and
c = 2/N - 1; expanded in u/s,

    G(u) = u^c / (c s) * 2F1(1, c; 1 + c; u/s) = \sum_{k >= 0} u^{k+c} / ((k + c) s^{k+1}).

The first two terms have poles at N = 2 (c = 0) and at infinite N (c = -1); taken as differences of powers, by expm1,
they have none, and the rest is, for s = 1, u^{2+c} / (2 + c) * 2F1(1, 2 + c; 3 + c; u). So one formula holds for every
real N >= 1. (Near u = 1 SciPy's 2F1 loses all digits for some N, 2.0001 say; the logarithm is taken out there.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import scipy  # its parts are loaded when they are used

from overdepth._checks import check_depth, check_positive


def balanced_hitting_time(start: float, level: float, target: float, depth: float) -> float:
    r"""The time at which a balanced mode, u' = N u^{2-2/N} (s - u), reaches a level.

    Args:
        start: u_0, above 0; also 0 if N < 2, where the flow leaves 0 by itself in the limit of positive starts.
        level: u, with start <= level < target.
        target: s.
        depth: N, any real number >= 1.

    Returns:
        The time.

    Raises:
        ValueError: If not 0 < start <= level < target, or depth is not finite and >= 1.

    Example:
        >>> from overdepth.theory import balanced_hitting_time
        >>> [round(balanced_hitting_time(0.01, 0.99, 1.0, depth), 4) for depth in (1, 2, 3, 4)]
        [4.5951, 4.5951, 5.3959, 5.9439]

    References:
        Saxe, McClelland & Ganguli, ICLR 2014 (N = 2, and general N as an integral).
    """
    _check_depth(depth)
    check_positive(target, "target")
    check_positive(level, "level")
    if start != 0 or depth >= 2:
        check_positive(start, "start")
    if not start <= level < target:
        raise ValueError(
            f"start is {start!r}, level is {level!r} and target is {target!r}, expected start <= level < target; a "
            f"mode rises towards its target and never reaches it."
        )
    # In units of the target: t = s^{2/N - 2} / N * (the time of u/s towards 1).
    low, high, c = start / target, level / target, 2.0 / depth - 1.0
    between = _difference_of_powers(low, high, c) + _difference_of_powers(low, high, 1.0 + c)
    rest = _rest(high, (target - level) / target, c) - _rest(low, (target - start) / target, c)
    return float(target ** (c - 1.0) / depth * (between + rest))


_TERMS = 60  # of a series that falls at least like 2^-n
_EULER = 0.5772156649015329


class EscapeTime(NamedTuple):
    """How long a mode stays on its plateau.

    Attributes:
        time: The exact time.
        asymptotic: Its leading term as the start goes to 0.
    """

    time: float
    asymptotic: float


def escape_time(start: float, target: float, depth: float, *, fraction: float = 0.5) -> EscapeTime:
    r"""How long a balanced mode takes from near zero to a fraction of its target: the plateau of deep networks.

    Near zero the other layers multiply the gradient by about nothing. As the start u_0 goes to 0, the time goes to

    - u_0^{-(1 - 2/N)} / ((N - 2) s) for N > 2: a power of the start;
    - log(s / u_0) / (2 s) for N = 2;
    - a finite limit for N < 2: the plain model has no plateau.

    Args:
        start: u_0 > 0, below ``fraction * target``.
        target: s > 0.
        depth: N, any real number >= 1.
        fraction: Of the target, between 0 and 1.

    Returns:
        The time and its leading term, which is close if u_0^{1 - 2/N} (with N = 2: 1 / log(s / u_0)) is small.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from overdepth.theory import escape_time
        >>> for depth in (1, 2, 3, 4):
        ...     print(depth, round(escape_time(1e-6, 1.0, depth).time, 2))
        1 0.69
        2 6.91
        3 99.15
        4 499.73

    References:
        Saxe, McClelland & Ganguli, ICLR 2014; Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Section 8.
    """
    _check_depth(depth)
    check_positive(start, "start")
    check_positive(target, "target")
    check_positive(fraction, "fraction")
    if fraction >= 1:
        raise ValueError(f"fraction is {fraction!r}, expected a number between 0 and 1; the target is never reached.")
    time = balanced_hitting_time(start, fraction * target, target, depth)
    if depth > 2:
        return EscapeTime(time, start ** (2.0 / depth - 1.0) / ((depth - 2.0) * target))
    if depth == 2:
        return EscapeTime(time, math.log(target / start) / (2.0 * target))
    return EscapeTime(time, balanced_hitting_time(0.0, fraction * target, target, depth))


def _difference_of_powers(low: float, high: float, exponent: float) -> float:
    """(high^a - low^a) / a, and log(high / low) for a = 0."""
    if low == 0:
        return float(high**exponent / exponent)  # a > 0, as only depths below 2 come here
    log_ratio = math.log(high / low)
    if exponent == 0:
        return log_ratio
    # Outside expm1's range of floats the larger power is all there is.
    if exponent * log_ratio > 700:
        return float((high**exponent - low**exponent) / exponent)
    return float(low**exponent * math.expm1(exponent * log_ratio) / exponent)


def _rest(z: float, left: float, c: float) -> float:
    r"""The terms k >= 2 at s = 1, the integral of v^p / (1 - v) from 0 to z with p = 1 + c, given z and 1 - z.

    Above z = 1/2 it is -log(1 - z) - (H_p - \int_0^{1-z} (1 - (1-w)^p) / w dw), H_p the harmonic number, and the
    integral a binomial series.
    """
    p = 1.0 + c
    if z <= 0.5:
        return float(z ** (p + 1.0) / (p + 1.0) * scipy.special.hyp2f1(1.0, p + 1.0, p + 2.0, z))
    total, term = 0.0, -1.0  # term: -binomial(p, n) (-left)^n
    for n in range(1, _TERMS):
        term *= -left * (p - n + 1) / n
        total += term / n
    return float(-math.log(left) - scipy.special.digamma(p + 1.0) - _EULER + total)


def _check_depth(depth: float) -> None:
    check_depth(depth, allow_real=True)
    if math.isinf(depth):
        raise ValueError("depth is inf, expected a finite number; the time shrinks like 1 / depth.")
