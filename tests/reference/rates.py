"""Rates of deep linear networks, written down as literally as the statements allow, in NumPy float64.

**The order of factors here is that of Min, Vidal & Mallada (ICML 2023)**: W = W_1 W_2 ... W_L with W_1 at the output,
so that holding the library against this file also tests the reverse map W_l = factors[L - l]. Layers are numbered
from 1 in the formulas and from 0 in the lists; n x m is the shape of W, lambda_1 >= lambda_2 >= ... . Nothing here is
fast, and nothing is shared with the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

Array = NDArray[np.float64]
Chain = Sequence[Array]


# --- the network -----------------------------------------------------------------------------------------------------


def weight(ws: Chain) -> Array:
    """W_1 W_2 ... W_L."""
    result = ws[0]
    for w in ws[1:]:
        result = result @ w
    return result


def before(ws: Chain, j: int) -> Array:
    """P_l = W_1 ... W_{l-1}."""
    result = np.eye(ws[0].shape[0])
    for w in ws[: j - 1]:
        result = result @ w
    return result


def after(ws: Chain, j: int) -> Array:
    """Q_l = W_{l+1} ... W_L."""
    result = np.eye(ws[-1].shape[1])
    for w in reversed(ws[j:]):
        result = w @ result
    return result


def layers(ws: Chain) -> range:
    """1, ..., L."""
    return range(1, len(ws) + 1)


def layer_gradients(ws: Chain, grad: Array) -> list[Array]:
    """P_l^T G Q_l^T."""
    return [before(ws, j).T @ grad @ after(ws, j).T for j in layers(ws)]


def transfer_spectrum(ws: Chain) -> Array:
    """The eigenvalues of sum_l kron(P_l P_l^T, Q_l^T Q_l), ascending."""
    terms = [np.kron(before(ws, j) @ before(ws, j).T, after(ws, j).T @ after(ws, j)) for j in layers(ws)]
    spectrum: Array = np.linalg.eigvalsh(np.sum(terms, axis=0))
    return spectrum


def rate(ws: Chain) -> float:
    """lambda_min(T)."""
    return float(transfer_spectrum(ws)[0])


def upper(ws: Chain) -> float:
    """sum_l ||P_l||^2 ||Q_l||^2 >= lambda_max(T)."""
    return float(sum(np.linalg.norm(before(ws, j), 2) ** 2 * np.linalg.norm(after(ws, j), 2) ** 2 for j in layers(ws)))


def size(ws: Chain) -> float:
    """sum_l prod_{k != l} ||W_k||^2: by how much a relative error of the imbalances moves a rate."""
    norms = [float(np.linalg.norm(w, 2)) ** 2 for w in ws]
    return sum(math.prod(norms[:i] + norms[i + 1 :]) for i in range(len(norms)))


def imbalances(ws: Chain) -> list[Array]:
    """D_l = W_l^T W_l - W_{l+1} W_{l+1}^T."""
    return [ws[i].T @ ws[i] - ws[i + 1] @ ws[i + 1].T for i in range(len(ws) - 1)]


def eigenvalue(matrix: Array, i: int) -> float:
    """lambda_i in descending order from 1; -inf beyond the size."""
    return float(np.linalg.eigvalsh(matrix)[::-1][i - 1]) if i <= len(matrix) else -math.inf


def singular_value(matrix: Array, i: int) -> float:
    """sigma_i in descending order from 1; 0 beyond min(n, m)."""
    return float(np.linalg.svd(matrix, compute_uv=False)[i - 1]) if i <= min(matrix.shape) else 0.0


def positive(x: float) -> float:
    """[x]_+."""
    return max(x, 0.0)


# --- margins (section 3) ---------------------------------------------------------------------------------------------


def margin_of_loss(minimizer: Array, gap: float, mu: float, i: int) -> float:
    """[sigma_i(W*) - sqrt(2 gap / mu)]_+."""
    return positive(singular_value(minimizer, i) - math.sqrt(2 * gap / mu))


def margin_of_data(minimizer: Array, gap: float, covariance: Array, i: int) -> float:
    """[sigma_i(W* S^(1/2)) - sqrt(2 gap)]_+ / sqrt(lambda_max(S))."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    return positive(singular_value(minimizer @ root, i) - math.sqrt(2 * gap)) / math.sqrt(float(values[-1]))


def margin_of_distance(start: Array, minimizer: Array, mu: float, K: float, i: int) -> float:
    """[sigma_i(W*) - sqrt(K / mu) ||W(0) - W*||_F]_+."""
    return positive(singular_value(minimizer, i) - math.sqrt(K / mu) * float(np.linalg.norm(start - minimizer)))


# --- chains of numbers (section 4) -----------------------------------------------------------------------------------


def offsets(differences: Sequence[float]) -> list[float]:
    """c_l = (sum_{k >= l} d_k) - min, for d_l = w_l^2 - w_{l+1}^2."""
    sums = [sum(differences[j:]) for j in range(len(differences) + 1)]
    return [s - min(sums) for s in sums]


def scalar_product(x: float, c: Sequence[float]) -> float:
    """p(x) = prod_l (x + c_l)."""
    return math.prod(x + a for a in c)


def scalar_slope(x: float, c: Sequence[float]) -> float:
    """p'(x) = sum_l prod_{k != l} (x + c_k)."""
    return sum(math.prod(x + a for k, a in enumerate(c) if k != j) for j in range(len(c)))


def scalar_root(c: Sequence[float], margin: float) -> float:
    """x* >= 0 with p(x*) = margin^2, by bisection of log x."""
    if margin == 0:
        return 0.0
    depth = len(c)
    high = 2 / depth * math.log(margin)
    least = min(range(depth), key=lambda j: c[j])
    low = 2 * math.log(margin) - sum(math.log(math.exp(high) + a) for k, a in enumerate(c) if k != least)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if scalar_product(math.exp(middle), c) < margin**2 else (low, middle)
    return math.exp((low + high) / 2)


def scalar_rate(c: Sequence[float], margin: float) -> float:
    """(i): p'(x*)."""
    return scalar_slope(scalar_root(c, margin), c)


def scalar_rate_bound(c: Sequence[float], margin: float) -> float:
    """(iii): sqrt((prod of the cumulative imbalances)^2 + (L margin^(2-2/L))^2)."""
    depth = len(c)
    return math.hypot(math.prod(sorted(c)[1:]), depth * margin ** (2 - 2 / depth))


# --- two layers (section 5) ------------------------------------------------------------------------------------------


def two_layer_rates(ws: Chain, sigma_n: float, sigma_m: float) -> tuple[float, float]:
    """The separate bounds of lambda_min(W_1 W_1^T) and of lambda_min(W_2^T W_2)."""
    (D,) = imbalances(ws)
    n, m = ws[0].shape[0], ws[1].shape[1]
    P, p = positive(eigenvalue(D, 1)), positive(eigenvalue(D, n))
    Q, q = positive(eigenvalue(-D, 1)), positive(eigenvalue(-D, m))
    a = (p - Q + math.sqrt((p + Q) ** 2 + 4 * sigma_n**2)) / 2
    c = (q - P + math.sqrt((q + P) ** 2 + 4 * sigma_m**2)) / 2
    return a, c


def two_layer_rate(ws: Chain, sigma_n: float, sigma_m: float) -> float:
    """The one-line form: Delta_+ goes with sigma_m, Delta_- with sigma_n."""
    (D,) = imbalances(ws)
    n, m = ws[0].shape[0], ws[1].shape[1]
    P, p = positive(eigenvalue(D, 1)), positive(eigenvalue(D, n))
    Q, q = positive(eigenvalue(-D, 1)), positive(eigenvalue(-D, m))
    up, down, both = P - p, Q - q, p + q
    first = -up + math.sqrt((up + both) ** 2 + 4 * sigma_m**2)
    second = -down + math.sqrt((down + both) ** 2 + 4 * sigma_n**2)
    return (first + second) / 2


# --- depth >= 3 (section 6) ------------------------------------------------------------------------------------------


def homogeneous_rate(c: Sequence[float], margin: float, n: int, m: int) -> float:
    """6.1, for D_l = d_l I."""
    x = scalar_root(c, margin)
    if n == m:
        return scalar_slope(x, c)
    return math.prod(x + a for a in c[:-1]) if n < m else math.prod(x + a for a in c[1:])


def three_layer_rate(ws: Chain) -> float:
    """6.2."""
    first, second = imbalances(ws)
    from_left, from_right = -first, second  # D_21, D_23
    n, m = ws[0].shape[0], ws[2].shape[1]
    h1, h2 = len(from_left), len(from_right)
    s = [max(eigenvalue(from_left, i), eigenvalue(from_right, i), 0.0) for i in range(1, max(h1, h2) + 1)]

    def side(E: Array, r: int, h: int) -> tuple[float, float]:
        one = two = 0.0
        for i in range(1, h + 1):
            b = min(s[i - 1], eigenvalue(E, i + 1 - r)) if i + 1 - r >= 1 else s[i - 1]
            one, two = one + s[i - 1] - b, two + s[i - 1] ** 2 - b**2
        return one, two

    one_left, two_left = side(from_left, n, h1)
    one_right, two_right = side(from_right, m, h2)
    return (two_left + one_left**2) / 2 + one_left * one_right + (two_right + one_right**2) / 2


def chain_rate(ws: Chain) -> float:
    """6.3."""
    D, depth = imbalances(ws), len(ws)
    h = [ws[0].shape[0], *(w.shape[1] for w in ws)]
    r, q = [0.0] * (depth + 1), [0.0] * (depth + 1)  # r_l, q_l at index l = 1 .. L
    for j in range(depth - 1, 0, -1):
        r[j] = positive(r[j + 1] + eigenvalue(D[j - 1], h[j - 1])) if h[j - 1] <= h[j] else 0.0
    for j in range(2, depth + 1):
        q[j] = positive(q[j - 1] + eigenvalue(-D[j - 2], h[j])) if h[j] <= h[j - 1] else 0.0
    return sum(math.prod(r[1:j]) * math.prod(q[j + 1 :]) for j in range(1, depth + 1))


def single_io_rate(margin: float, depth: int) -> float:
    """6.4: L |w|^(2 - 2/L)."""
    return float(depth * margin ** (2 - 2 / depth))


def lazy_holds(ws: Chain, start: float, gap: float, gamma: float, theta: float) -> bool:
    """6.5: whether sqrt(lambda_0) - sqrt(sum_l e_l^2) >= sqrt(theta lambda_0), with lambda_0 given."""
    if start == 0:
        return False
    radius = 2 * math.sqrt(gap / (theta * start * gamma))
    norms = [float(np.linalg.norm(w, 2)) for w in ws]
    e = [
        math.prod(a + radius for k, a in enumerate(norms) if k != j)
        - math.prod(a for k, a in enumerate(norms) if k != j)
        for j in range(len(norms))
    ]
    return math.sqrt(start) - math.sqrt(sum(x**2 for x in e)) >= math.sqrt(theta * start)


def lazy_rate(ws: Chain, gap: float, gamma: float, points: int = 4000) -> float:
    """The largest alpha = theta lambda_0 that a grid of theta finds."""
    start = positive(rate(ws))
    found = [i for i in range(1, points + 1) if lazy_holds(ws, start, gap, gamma, i / points)]
    return max(found) / points * start if found else 0.0


# --- the flow --------------------------------------------------------------------------------------------------------


class Quadratic:
    """f(W) - f* = tr((W - W*) S (W - W*)^T) / 2: least squares with the covariance S and the minimizer W*."""

    def __init__(self, minimizer: Array, covariance: Array) -> None:
        self.minimizer, self.covariance = minimizer, covariance
        values = np.linalg.eigvalsh(covariance)
        self.strong_convexity, self.smoothness = float(values[0]), float(values[-1])

    def gap(self, w: Array) -> float:
        """f(W) - f*."""
        difference = w - self.minimizer
        return float(np.sum((difference @ self.covariance) * difference)) / 2

    def gradient(self, w: Array) -> Array:
        """(W - W*) S."""
        return (w - self.minimizer) @ self.covariance


def flow(ws: Chain, gradient: Callable[[Array], Array], times: Sequence[float]) -> list[list[Array]]:
    """The layers' gradient flow at every time, restarted there: SciPy's t_eval would return the interpolant."""
    shapes = [w.shape for w in ws]
    cuts = np.cumsum([w.size for w in ws])[:-1]

    def unpack(state: Array) -> list[Array]:
        return [part.reshape(shape) for part, shape in zip(np.split(state, cuts), shapes, strict=True)]

    def velocity(_time: float, state: Array) -> Array:
        now = unpack(state)
        return -np.concatenate([g.reshape(-1) for g in layer_gradients(now, gradient(weight(now)))])

    state, time, found = np.concatenate([w.reshape(-1) for w in ws]), 0.0, []
    for end in times:
        if end > time:
            state = solve_ivp(velocity, (time, end), state, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
            time = end
        found.append(unpack(state))
    return found


# --- instances -------------------------------------------------------------------------------------------------------


def orthogonal(rng: np.random.Generator, n: int) -> Array:
    """A random orthogonal matrix."""
    q: Array = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return q


def random_chain(rng: np.random.Generator, dims: Sequence[int], spread: float = 0.5) -> list[Array]:
    """Normal layers h_0 x h_1, h_1 x h_2, ... with sizes that differ by powers of 10 up to ``spread``."""
    return [
        10 ** rng.uniform(-spread, spread) * rng.standard_normal((dims[i], dims[i + 1])) / math.sqrt(dims[i])
        for i in range(len(dims) - 1)
    ]


def spectral_chain(rng: np.random.Generator, dims: Sequence[int], strengths: Array) -> list[Array]:
    """W_l = V_{l-1} diag(strengths[l]) V_l^T with random orthogonal V, strengths of shape (L, r), zero beyond."""
    bases = [orthogonal(rng, h) for h in dims]
    result = []
    for j, s in enumerate(strengths):
        middle = np.zeros((dims[j], dims[j + 1]))
        middle[range(len(s)), range(len(s))] = s
        result.append(bases[j] @ middle @ bases[j + 1].T)
    return result


def homogeneous_chain(
    rng: np.random.Generator, n: int, m: int, differences: Sequence[float], x: Sequence[float]
) -> list[Array]:
    """Layers with D_l = d_l I: hidden widths min(n, m) and s_{l,i}^2 = x_i + c_l."""
    r = min(n, m)
    strengths = np.sqrt(np.add.outer(offsets(differences), x))
    return spectral_chain(rng, [n, *[r] * len(differences), m], strengths)
