"""The end-to-end rule for JAX: the mathematics of :mod:`overdepth.rule` as a transformation of optax.

Needs the extra ``optax``. Whatever acts on gradients there stands before or behind it: ``optax.masked`` says which
weights it is for, ``optax.sgd`` or ``optax.trace`` takes the step.

**Precision.** The decomposition runs in float64 where JAX has it (``jax_enable_x64``), else in float32, by a singular
value decomposition, which does not square the condition number. Matrix products take the full precision of that type on
accelerators too.

**Rank tolerance**, for the reason that :mod:`overdepth.rule` gives. In float64 the defaults are the ones there. A
decomposition in float32 adds noise of its own: up to 1, 4, 6, 8 and 10 units of rounding were measured in the null
directions of matrices whose smaller side is 8, 64, 512, 1024 and 2048. The default there is 4 + sqrt(min(k, d)) / 2
units; at 512 that resolves a condition number of 5e5.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from overdepth._checks import check_depth, check_rank_rtol
from overdepth._extras import missing_extra

try:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
except ModuleNotFoundError as error:
    missing_extra(error, "overdepth.optax", "optax")

__all__ = ["scale_by_end_to_end"]


def scale_by_end_to_end(
    depth: float, *, rank_rtol: float | None = None, allow_frozen_directions: bool = False
) -> optax.GradientTransformation:
    r"""Preconditions updates as an N-factor parametrization of their weights would.

    .. math:: \sum_{j=1}^N [W W^T]^{(N-j)/N} \, G \, [W^T W]^{(j-1)/N}

    ``chain(scale_by_end_to_end(N), sgd(lr))`` steps as gradient descent on N balanced factors of every weight, up to
    O(lr^2). There is no state. A leaf of updates is taken by its shape:

    ====================  ===========================================================================================
    shape                 what happens
    ====================  ===========================================================================================
    ``()``, ``(n,)``      passes unchanged, as at depth 1
    ``(k, d)``            a matrix; (in, out) or (out, in) is all one, the rule transposes with its arguments
    ``(..., o)``          the matrix (product of the others, o): a convolution's (h, w, i, o) is (h w i, o)
    ====================  ===========================================================================================

    So the last axis stands against all others, as flax lays weights out. (In torch the first does.) Where the axes mean
    something else (grouped convolutions, the heads of attention, layers stacked by a scan), and for embeddings and
    output heads, leave weights out by ``optax.masked``.

    A weight that is zero does not move at depth 2 or more, nor does a direction of it that is null on both sides. A
    weight with a non-finite entry gives NaN throughout.

    Args:
        depth: N, any real number >= 1; 1 changes nothing. ``math.inf`` is the limit of the sum divided by N.
        rank_rtol: Singular values up to this fraction of the largest count as zero; the default and its reason are
            in the module's docstring. A single output needs none.
        allow_frozen_directions: At infinite depth a direction with one null side does not move, so that weights whose
            matrix is not square are refused unless this is set. (Rank is not checked: it is data.)

    Returns:
        A transformation whose ``update`` needs ``params``. Updates keep their shapes and dtypes.

    Raises:
        ValueError: If depth < 1 or ``rank_rtol`` is not in [0, 1). By ``init`` and ``update``: if a weight is of an
            integer or complex type, or infinite depth would freeze directions. By ``update``: if it has no params, or
            an update is of such a type or not of its weight's shape.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from overdepth.optax import scale_by_end_to_end
        >>> optimizer = optax.chain(scale_by_end_to_end(2), optax.sgd(0.5))
        >>> params = {"kernel": jnp.array([[0.0, 2.0]]), "bias": jnp.zeros(2)}
        >>> grads = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
        >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
        >>> print(updates["kernel"])  # -0.5 * 2 * (g + <g, u> u)
        [[-1. -2.]]

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 1, Claims 1 and 2.
    """
    check_depth(depth, allow_real=True)
    check_rank_rtol(rank_rtol)

    def check(path: Any, weight: Any) -> None:
        if _is_preconditioned(weight, depth):
            _check_dtype(_name(path), weight)
            if math.isinf(depth) and not allow_frozen_directions:
                _check_square(_name(path), weight)

    def init(params: Any) -> Any:
        jax.tree_util.tree_map_with_path(check, params)
        return optax.EmptyState()

    def precondition(path: Any, grad: Any, weight: Any) -> Any:
        if grad is None or not _is_preconditioned(grad, depth):
            return grad
        check(path, weight)
        _check_dtype(f"the update of {_name(path)}", grad)
        if jnp.shape(grad) != jnp.shape(weight):
            raise ValueError(
                f"the update of {_name(path)} has shape {jnp.shape(grad)} and the weight has shape "
                f"{jnp.shape(weight)}; the update must have the shape of the weight."
            )
        rtol = _default_rank_rtol(weight) if rank_rtol is None else rank_rtol
        return _update(jnp.asarray(weight), jnp.asarray(grad), float(depth), rtol, is_limit=math.isinf(depth))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "scale_by_end_to_end preconditions by the weights and was given none; call "
                "update(updates, state, params)."
            )
        with jax.default_matmul_precision("highest"):  # accelerators would round to fewer bits
            updates = jax.tree_util.tree_map_with_path(precondition, updates, params, is_leaf=lambda x: x is None)
        return updates, state

    return optax.GradientTransformation(init, update)


def _is_preconditioned(leaf: Any, depth: float) -> bool:
    return depth > 1 and jnp.ndim(leaf) >= 2 and math.prod(jnp.shape(leaf)) > 0


def _check_dtype(name: str, leaf: Any) -> None:
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{name} has dtype {dtype}, expected a real floating-point type; leave it out by optax.masked."
        )


def _check_square(name: str, weight: Any) -> None:
    k, d = _matrix_shape(weight)
    if k != d:
        raise ValueError(
            f"depth is infinite and {name} is a matrix of {k} x {d}, which is not square, so that directions with one "
            f"null side cannot move; use a finite depth, or allow_frozen_directions=True if that is wanted."
        )


def _matrix_shape(leaf: Any) -> tuple[int, int]:
    shape = jnp.shape(leaf)
    return math.prod(shape[:-1]), shape[-1]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "the parameter"


@functools.partial(jax.jit, static_argnames="is_limit")
def _update(weight: jax.Array, grad: jax.Array, depth: float, rtol: float, *, is_limit: bool) -> jax.Array:
    """The rule on one leaf, in the widest type that JAX has; traced and compiled once for all leaves of one shape."""
    dtype = jnp.result_type(float)
    wide = weight.astype(dtype).reshape(-1, weight.shape[-1])
    is_finite = jnp.isfinite(wide).all()
    wide = jnp.where(is_finite, wide, 0.0)  # LAPACK may never return from an infinite entry
    wide_grad = grad.astype(dtype).reshape(wide.shape)
    if min(wide.shape) == 1:
        found = _single_output_update(wide, wide_grad, depth, is_limit)
    else:
        found = _matrix_update(wide, wide_grad, depth, rtol, is_limit)
    return jnp.where(is_finite, found, jnp.nan).reshape(grad.shape).astype(grad.dtype)


def _single_output_update(weight: jax.Array, grad: jax.Array, depth: float, is_limit: bool) -> jax.Array:
    """Claim 2: ||w||^{2-2/N} (g + (N-1) <g, u> u), at infinite depth ||w||^2 <g, u> u."""
    largest = jnp.abs(weight).max()
    scaled = weight / jnp.where(largest > 0, largest, 1.0)  # no square of it leaves the range of its type
    length = jnp.sqrt(jnp.square(scaled).sum())
    unit = scaled / jnp.where(length > 0, length, 1.0)
    along = (grad * unit).sum() * unit
    inner = along if is_limit else grad + (depth - 1.0) * along
    return (largest * length) ** (2.0 - 2.0 / depth) * inner


def _matrix_update(weight: jax.Array, grad: jax.Array, depth: float, rtol: float, is_limit: bool) -> jax.Array:
    """The rule through the smaller side, as in :mod:`overdepth.rule`: G inside the row space of W and beside it."""
    if weight.shape[0] > weight.shape[1]:
        return _matrix_update(weight.T, grad.T, depth, rtol, is_limit).T
    u, singular, vh = jnp.linalg.svd(weight, full_matrices=False)
    singular = jnp.where(singular > rtol * singular.max(), singular, 0.0)
    inside = _multipliers(singular[:, None], singular[None, :], depth, is_limit)
    beside = _multipliers(singular[:, None], jnp.zeros_like(singular)[:, None], depth, is_limit)
    rotated = u.T @ grad
    coordinates = rotated @ vh.T
    return u @ (beside * rotated + ((inside - beside) * coordinates) @ vh)


def _multipliers(left: jax.Array, right: jax.Array, depth: float, is_limit: bool) -> jax.Array:
    """Claim 1's eigenvalues, as :func:`overdepth.rule.multipliers`, without a NaN or infinity on the way."""
    large, small = jnp.maximum(left, right), jnp.minimum(left, right)
    ratio = small / jnp.where(large > 0, large, 1.0)
    log_ratio = -2.0 * jnp.log(jnp.where(ratio > 0, ratio, 1.0))
    denominator = log_ratio if is_limit else -jnp.expm1(-log_ratio / depth)
    is_equal = denominator <= 0
    quotient = -jnp.expm1(-log_ratio) / jnp.where(is_equal, 1.0, denominator)
    limit, of_null = (1.0, 0.0) if is_limit else (depth, 1.0)
    factor = jnp.where(ratio > 0, jnp.where(is_equal, limit, quotient), of_null)
    return jnp.asarray(large ** (2.0 - 2.0 / depth) * factor)


def _default_rank_rtol(weight: Any) -> float:
    """The relative size up to which a singular value counts as noise: that of storing the weight or decomposing it."""
    k, d = _matrix_shape(weight)
    if jnp.result_type(float) == jnp.float32:
        return (4 + math.sqrt(min(k, d)) / 2) * float(np.finfo(np.float32).eps)
    if jnp.result_type(weight) == jnp.float64:
        return max(k, d) * float(np.finfo(np.float64).eps)
    return 4 * float(np.finfo(np.float32).eps)
