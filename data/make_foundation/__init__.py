"""Making of the embedded foundation potential ``tiny-xtb-hcno`` (GFN2-xTB, H/C/N/O)."""
