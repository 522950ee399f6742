"""Closed-shell CCSD(T) analytic gradients.

The (T) terms come from :mod:`ccsdt_triples`; the CCSD lambda equations, the orbital response
and the integral derivatives are PySCF's.
"""

from __future__ import annotations

from ccsdt_triples import Array, triples_terms
from pyscf import lib
from pyscf.cc import ccsd_lambda, ccsd_rdm
from pyscf.cc.ccsd import CCSD
from pyscf.grad import ccsd as ccsd_grad


def ccsdt_energy_gradient(mycc: CCSD, eris: object, tolerance: float) -> tuple[float, Array]:
    """CCSD(T) total energy (Ha) and gradient (Ha/bohr) from converged CCSD amplitudes.

    ``tolerance`` is the convergence threshold on the norm of the lambda update.
    """
    t1, t2 = mycc.t1, mycc.t2
    terms = triples_terms(t1, t2, eris)

    def update(
        mycc: CCSD, t1: Array, t2: Array, l1: Array, l2: Array, eris: object, imds: object
    ) -> tuple[Array, Array]:
        l1, l2 = ccsd_lambda.update_lambda(mycc, t1, t2, l1, l2, eris, imds)
        return l1 + terms.l1, l2 + terms.l2

    converged, l1, l2 = ccsd_lambda.kernel(
        mycc,
        eris,
        t1,
        t2,
        max_cycle=100,
        tol=tolerance,
        verbose=0,
        fupdate=update,
    )
    if not converged:
        raise RuntimeError("the CCSD(T) lambda equations did not converge")
    doo, dov, dvo, dvv = ccsd_rdm._gamma1_intermediates(mycc, t1, t2, l1, l2)
    d1 = (doo - 0.5 * terms.goo, dov, dvo + terms.dvo, dvv + 0.5 * terms.gvv)
    with lib.H5TmpFile() as scratch:
        dovov, dvvvv, doooo, doovv, dovvo, dvvov, dovvv, dooov = ccsd_rdm._gamma2_outcore(
            mycc, t1, t2, l1, l2, scratch, True
        )
        d2 = (
            dovov[:] + terms.dovov,
            dvvvv,
            doooo,
            doovv,
            dovvo,
            dvvov,
            dovvv[:] + terms.dovvv,
            dooov[:] + terms.dooov,
        )
        solver = ccsd_grad.Gradients(mycc)
        gradient = ccsd_grad.grad_elec(solver, t1, t2, l1, l2, eris, None, d1, d2, 0)
    return mycc.e_tot + terms.energy, gradient + solver.grad_nuc()
