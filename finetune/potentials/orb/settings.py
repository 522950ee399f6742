"""What rebuilds an ORB without its weights."""

from __future__ import annotations

from pydantic import Field

from finetune.potentials.settings import ElementSettings, elements_row

CUTOFF = 6.0
"""Å; it stands in the layers of orb-models themselves."""
EMBEDDED = 117
"""Elements that an ORB has an embedding and a reference energy for."""
RADIAL, DEGREE = 8, 3
"""Bessel functions, and the highest degree of spherical harmonics, of an edge."""


class OrbSettings(ElementSettings):
    """Sizes of the layers of an ORB v3, and the numbers that its heads are scaled with.

    The energy of a structure of n atoms is the sum of ``atomic_energies`` and n times
    (``energy_mean`` + ``energy_std`` · head), eV; forces of a network with a head for them
    (``direct``) are ``forces_mean`` + ``forces_std`` · head, eV/Å. Each atom sends messages to its
    ``max_neighbours`` nearest neighbours at most.
    """

    most = EMBEDDED
    direct: bool
    charge_and_spin: bool = Field(False, description="whether both are inputs (OrbMol)")
    latent_dim: int = Field(256, ge=4, le=8192, multiple_of=4)
    message_passing_steps: int = Field(5, ge=1, le=64)
    base_mlp_hidden_dim: int = Field(1024, ge=1, le=65536)
    base_mlp_depth: int = Field(2, ge=1, le=16)
    head_mlp_hidden_dim: int = Field(256, ge=1, le=65536)
    head_mlp_depth: int = Field(1, ge=1, le=16)
    energy_mean: float = 0.0
    energy_std: float = Field(1.0, gt=0)
    forces_mean: float = 0.0
    forces_std: float = Field(1.0, gt=0)
    max_neighbours: int = Field(120, ge=1, le=100_000)

    def description(self) -> list[tuple[str, str]]:
        """See `FamilySettings.description`."""
        forces = "predicted by a head (direct), net force and torque removed"
        return [
            ("architecture", "ORB v3"),
            ("cutoff", f"{CUTOFF:g} Å, {self.max_neighbours} neighbours at most"),
            ("features", f"{self.latent_dim} of atoms and of edges"),
            ("interactions", str(self.message_passing_steps)),
            ("forces", forces if self.direct else "gradient of the energy"),
            ("symmetry", "rotations and reflections are learnt, not built in"),
            *([("inputs", "charge and spin")] if self.charge_and_spin else []),
            elements_row(self.atomic_numbers),
        ]
