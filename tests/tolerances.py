"""Named tolerances, float64."""

ROUNDING_ENERGY = 1e-9  # eV, on total energies of thousands of eV
ROUNDING_FORCES = 1e-10  # eV/Å
EXPORT_ENERGY = 1e-8  # eV
EXPORT_FORCES = 1e-7  # eV/Å
FINITE_DIFFERENCE = 1e-6  # eV/Å, central differences with a step of 1e-4 Å
CLOSED_FORM = 1e-12
