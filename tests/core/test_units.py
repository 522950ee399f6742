"""Factors of units against the values of CODATA, and what a unit that is left open becomes."""

import pytest

from finetune.core.units import Units

EXPECTED = [
    ("energy", "meV", 1e-3),
    ("energy", "Hartree", 27.211386),
    ("energy", "Rydberg", 13.605693),
    ("energy", "kcal/mol", 0.04336410),
    ("energy", "kJ/mol", 0.010364270),
    ("length", "Bohr", 0.52917721),
    ("length", "nm", 10.0),
    ("length", "pm", 0.01),
    ("forces", "Hartree/Bohr", 51.422067),
    ("forces", "-kcal/mol/Å", -0.04336410),
    ("stress", "GPa", 6.2415091e-3),
    ("stress", "-kbar", -6.2415091e-4),
    ("stress", "bar", 6.2415091e-7),
    ("stress", "Pa", 6.2415091e-12),
    ("stress", "TPa", 6.2415091),
    ("stress", "Hartree/Bohr³", 183.63152),
    ("virial", "-kcal/mol", -0.04336410),
]


@pytest.mark.parametrize(("quantity", "unit", "factor"), EXPECTED)
def test_factors(quantity: str, unit: str, factor: float) -> None:
    assert Units(**{quantity: unit}).factors()[quantity] == pytest.approx(factor, rel=1e-6)


def test_forces_and_stress_follow_the_units_that_are_given() -> None:
    said = Units(energy="Hartree", length="Å", forces="-eV/Å", stress="GPa")
    assert Units().filled(said) == said
    assert Units(length="Bohr").filled(Units(energy="Hartree", forces="-eV/Å")) == Units(
        energy="Hartree", length="Bohr", forces="-eV/Å", stress="Hartree/Bohr³"
    )
    assert Units(energy="Rydberg").filled().forces == "Rydberg/Å"
    for quantity in ("energy", "length", "forces", "stress"):
        restated = Units(**{quantity: getattr(said, quantity)})
        assert restated.filled(said) == said
    assert Units(stress="kbar").filled(said).forces == "-eV/Å"
