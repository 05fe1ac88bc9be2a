"""Round a layer's weights so that its outputs change least, not its weights.

    minimize over integers q:  (w - s q) H (w - s q)^T,   H = X^T X + ridge

the quadratic problem of AdaRound (Nagel et al., 2020). First sequential error feedback, which passes the rounding error
of each weight on to those not rounded yet, here as nearest planes on the Cholesky factor of H (the same as GPTQ,
Frantar et al., 2022); then a few sweeps of descent, one weight of every output at a time: another percent or so.
"""

from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array

_RIDGE = 0.01  # as a share of the mean of the diagonal
_BLOCK = 64
_SWEEPS = 2


@dataclass(frozen=True, slots=True)
class RoundingProblem:
    """Weights of one group of a layer, FP64.

    Attributes:
        weights: [output, input].
        scales: by output.
        nearest: the integers that plain rounding gives.
        gram: X^T X of the inputs.
        fixed: which integers must stay: those that the scale is read from.
        limits: largest integer by output.
    """

    weights: Array
    scales: Array
    nearest: Array
    gram: Array
    fixed: Array
    limits: Array


def rounded(problem: RoundingProblem) -> Array:
    """Find integers that are better on these inputs."""
    order = np.argsort(np.diag(problem.gram), kind="stable")
    ordered = RoundingProblem(
        problem.weights[:, order],
        problem.scales,
        problem.nearest[:, order],
        _with_ridge(problem.gram)[np.ix_(order, order)],
        problem.fixed[:, order],
        problem.limits,
    )
    result = np.empty_like(problem.nearest)
    result[:, order] = _descended(ordered, _fed_back(ordered))
    return result


def kept_where_better(problem: RoundingProblem, integers: Array, gram: Array) -> Array:
    """Take the integers of those outputs alone that are better than the nearest on inputs they were not fitted to."""
    is_better = output_errors(problem, integers, gram) < output_errors(problem, problem.nearest, gram)
    return np.where(is_better[:, None], integers, problem.nearest)


def output_errors(problem: RoundingProblem, integers: Array, gram: Array) -> Array:
    """Squared error by output that rounding to these integers causes."""
    residual = problem.weights - problem.scales[:, None] * integers
    errors: Array = np.einsum("oi,oi->o", residual @ gram, residual)
    return errors


def _with_ridge(gram: Array) -> Array:
    ridge = _RIDGE * float(np.diag(gram).mean())
    return gram + np.eye(len(gram)) * max(ridge, np.finfo(np.float64).tiny)


def _fed_back(problem: RoundingProblem) -> Array:
    """From the last input, which matters most, to the first: each takes over what those behind it got wrong."""
    factor = np.linalg.cholesky(problem.gram)
    weights, integers = problem.weights.T.copy(), problem.nearest.T.copy()  # [input, output], so that a step is a row
    residual = np.zeros_like(weights)
    for end in range(len(integers), 0, -_BLOCK):
        begin = max(end - _BLOCK, 0)
        carried = factor[end:, begin:end].T @ residual[end:]
        for at in range(end - 1, begin - 1, -1):
            wanted = weights[at] + carried[at - begin] / factor[at, at]
            integers[at] = _nearest(problem, wanted, at)
            residual[at] = weights[at] - problem.scales * integers[at]
            carried[: at - begin] += factor[at, begin:at, None] * residual[at]
    return integers.T


def _descended(problem: RoundingProblem, start: Array) -> Array:
    """Coordinate descent: every step is the best one for its weight, so the error never grows."""
    integers, diagonal = start.T.copy(), np.diag(problem.gram)
    slope = problem.gram @ (problem.weights.T - problem.scales * integers)
    for _ in range(_SWEEPS):
        before = integers.copy()
        for begin in range(0, len(integers), _BLOCK):
            end = min(begin + _BLOCK, len(integers))
            local = slope[begin:end].copy()
            for at in range(begin, end):
                here = problem.scales * integers[at]
                integers[at] = _nearest(problem, here + local[at - begin] / diagonal[at], at)
                moved = problem.scales * integers[at] - here
                local[at - begin :] -= problem.gram[at:end, at, None] * moved
            slope -= problem.gram[:, begin:end] @ (problem.scales * (integers[begin:end] - before[begin:end]))
        if np.array_equal(integers, before):
            break
    return integers.T


def _nearest(problem: RoundingProblem, wanted: Array, at: int) -> Array:
    """Round what the outputs want of one input; fixed integers stay."""
    integers = np.clip(np.rint(wanted / problem.scales), -problem.limits, problem.limits)
    return np.where(problem.fixed[:, at], problem.nearest[:, at], integers)
