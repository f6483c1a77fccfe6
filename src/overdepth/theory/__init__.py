"""The theory: what the flow of the factors does, how fast it provably converges, and what no regularizer can imitate.

Torch float64 in and out, factors in the library's order. Needs the extra ``lab``.
"""

from __future__ import annotations

from overdepth._extras import missing_extra

try:
    from overdepth.theory.acceleration import TwoPointPlan, TwoPointRun, plan_two_point, run_two_point
    from overdepth.theory.balancing import (
        balance,
        decayed_imbalance,
        factors_with_imbalance,
        imbalance_drift,
        layer_gradients,
    )
    from overdepth.theory.certificate import Certificate, certify
    from overdepth.theory.discretization import discretization_gap
    from overdepth.theory.geometry import decay_gradient, decay_potential, riemannian_gradient, riemannian_inner
    from overdepth.theory.gradient_flow import flow
    from overdepth.theory.hitting import EscapeTime, balanced_hitting_time, escape_time
    from overdepth.theory.lazy import LazyRate, frozen_rate, lazy_rate
    from overdepth.theory.line_integrals import ClosedCurve, closed_curve, curve_integral, curve_integral_exact
    from overdepth.theory.losses import LeastSquares, Loss, Whitening, least_squares, matrix_distance, whiten
    from overdepth.theory.margins import margin, margin_from_distance
    from overdepth.theory.matrix_modes import riccati, spectral_factors
    from overdepth.theory.modes import deep_mode, logistic_mode, two_layer_mode
    from overdepth.theory.momentum import MomentumKernel, momentum_kernel
    from overdepth.theory.no_regularizer import NoRegularizerCertificate, no_regularizer_certificate
    from overdepth.theory.rates import (
        chain_rate,
        single_io_rate,
        supported_single_io_rate,
        three_layer_rate,
        two_layer_rate,
        two_layer_rates,
    )
    from overdepth.theory.rule_field import field_curl, two_layer_potential, vector_field
    from overdepth.theory.scalar_chains import homogeneous_rate, scalar_rate, scalar_rate_bound
except ModuleNotFoundError as error:
    missing_extra(error, "overdepth.theory", "lab")

__all__ = [
    "Certificate",
    "ClosedCurve",
    "EscapeTime",
    "LazyRate",
    "LeastSquares",
    "Loss",
    "MomentumKernel",
    "NoRegularizerCertificate",
    "TwoPointPlan",
    "TwoPointRun",
    "Whitening",
    "balance",
    "balanced_hitting_time",
    "certify",
    "chain_rate",
    "closed_curve",
    "curve_integral",
    "curve_integral_exact",
    "decay_gradient",
    "decay_potential",
    "decayed_imbalance",
    "deep_mode",
    "discretization_gap",
    "escape_time",
    "factors_with_imbalance",
    "field_curl",
    "flow",
    "frozen_rate",
    "homogeneous_rate",
    "imbalance_drift",
    "layer_gradients",
    "lazy_rate",
    "least_squares",
    "logistic_mode",
    "margin",
    "margin_from_distance",
    "matrix_distance",
    "momentum_kernel",
    "no_regularizer_certificate",
    "plan_two_point",
    "riccati",
    "riemannian_gradient",
    "riemannian_inner",
    "run_two_point",
    "scalar_rate",
    "scalar_rate_bound",
    "single_io_rate",
    "spectral_factors",
    "supported_single_io_rate",
    "three_layer_rate",
    "two_layer_mode",
    "two_layer_potential",
    "two_layer_rate",
    "two_layer_rates",
    "vector_field",
    "whiten",
]
