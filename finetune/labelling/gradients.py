"""Analytic gradients of PySCF's methods, each with what it needs to be exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.labelling.label import LabelError


def gradient(method: Any, name: str) -> NDArray[np.float64]:
    """Return dE/dR ``[n, 3]``, Hartree/Bohr, of a converged calculation.

    Args:
        method: PySCF's mean field, MP2 or CCSD.
        name: ``hf``, ``mp2``, ``ccsd``, ``ccsd(t)`` or a functional.

    Raises:
        LabelError: If the lambda equations do not converge.
    """
    if name == "ccsd" and hasattr(method, "solve_lambda"):
        return _of_ccsd(method)
    if name == "ccsd(t)" and hasattr(method, "solve_lambda"):
        return _of_triples(method)
    solver = method.nuc_grad_method()
    if hasattr(solver, "grid_response"):
        solver.grid_response = True
    return np.asarray(solver.kernel())


def _of_ccsd(method: Any) -> NDArray[np.float64]:
    integrals = method.ao2mo()
    first, second = method.solve_lambda(eris=integrals)
    _check(method.converged_lambda, method)
    solver = method.nuc_grad_method()
    return np.asarray(solver.kernel(method.t1, method.t2, first, second, eris=integrals))


def _of_triples(method: Any) -> NDArray[np.float64]:
    """Solve the lambda equations of CCSD(T): with those of CCSD the gradient would be wrong."""
    from pyscf.cc import ccsd_t_lambda
    from pyscf.grad import ccsd_t

    integrals = method.ao2mo()
    converged, first, second = ccsd_t_lambda.kernel(
        method,
        integrals,
        method.t1,
        method.t2,
        max_cycle=method.max_cycle,
        tol=method.conv_tol_normt,
        verbose=0,
    )
    _check(converged, method)
    solver = ccsd_t.Gradients(method)
    return np.asarray(solver.kernel(method.t1, method.t2, first, second, eris=integrals))


def _check(converged: bool, method: Any) -> None:
    if not converged:
        raise LabelError(
            f"the lambda equations did not converge in {method.max_cycle} cycles "
            "(level.max_cycles): no forces."
        )
