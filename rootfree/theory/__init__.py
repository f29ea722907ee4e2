"""The paper's exact statements, and what noisy quadratics say about its empirical ones, as functions that return rows.

Everything is computed in float64 from fixed seeds. A row says what was measured, what the claim predicts, and whether
the two agree. Claims are numbered as in `experiments/claims.yaml`; "the paper" is Lin, Dangel, Eschenhagen, Bae,
Turner, Makhzani, "Can We Remove the Square-Root in Adaptive Gradient Methods? A Second-Order Perspective", ICML 2024.

`expected` has one of three forms, and a row agrees with it if, with e the standard error (0 where there is none),

    "x ± t"    |value - x| <= t + 3 e
    "> x"      value > x + 3 e
    "< x"      value < x - 3 e

An empty `expected` means that the claim predicts nothing: the row is there for comparison. What is exact up to rounding
errors is rounded to nine decimals, so that it does not depend on the order in which a machine adds.

Notation: g the gradient of a mean loss over B examples, s or S the second moment, h = 1 - beta2 its step size, p the
exponent of the denominator (1 root-free, 1/2 rooted, 0 SGD).
"""

from collections.abc import Callable

from rootfree.theory.fisher import empirical_bias, joint_fisher, joint_fisher_sampled
from rootfree.theory.invariance import loss_rescaling, reparameterisation
from rootfree.theory.measured import Measured
from rootfree.theory.preconditioners import kronecker_invariance, preconditioner_invariance
from rootfree.theory.quadratics import batch_size_factor, exponents, stationary_error

CHECKS: tuple[Callable[[], list[Measured]], ...] = (
    exponents,
    batch_size_factor,
    loss_rescaling,
    reparameterisation,
    preconditioner_invariance,
    kronecker_invariance,
    joint_fisher,
    joint_fisher_sampled,
    empirical_bias,
    stationary_error,
)
