"""Compute the labels of structures: PySCF, tblite, or any ASE calculator."""
