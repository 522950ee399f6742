"""What rebuilds a CHGNet without its weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from finetune.potentials.settings import LONGEST, ElementSettings, elements_row

EMBEDDED = 94
"""Elements that a CHGNet has an embedding for: hydrogen to plutonium."""
_JUMP = "where the first angle in a structure appears, by up to some eV"
Norm = Literal["layer"] | None
Widths = int | tuple[int, ...]
"""Widths of the hidden layers of a perceptron: one, several, or 0 for none."""


class ChgnetSettings(ElementSettings):
    """Arguments of `chgnet.model.model.CHGNet` under its names, and the energies of its AtomRef.

    ``atomic_numbers`` are the elements known.
    Dropout is stored for other programs; here it is always off. Batch normalisation, and readouts
    that average atoms before the perceptron, are not supported.
    """

    most = EMBEDDED
    composition_model: Literal["MPtrj", "MPtrj_e", "MPF", "MP-r2SCAN"] = "MPtrj"
    is_intensive: bool = True
    version: str | None = None
    atom_fea_dim: int = Field(64, ge=1)
    bond_fea_dim: int = Field(64, ge=1)
    angle_fea_dim: int = Field(64, ge=1)
    num_radial: int = Field(31, ge=1)
    num_angular: int = Field(31, ge=1)
    n_conv: int = Field(4, ge=1)
    atom_conv_hidden_dim: Widths = 64
    bond_conv_hidden_dim: Widths = 64
    angle_layer_hidden_dim: Widths = 0
    mlp_hidden_dims: Widths = (64, 64, 64)
    update_bond: bool = True
    update_angle: bool = True
    conv_dropout: float = Field(0.0, ge=0, lt=1)
    mlp_dropout: float = Field(0.0, ge=0, lt=1)
    non_linearity: Literal["silu", "relu", "tanh", "gelu", "scaledsilu", "softplus", "sigmoid"] = (
        "silu"
    )
    atom_graph_cutoff: float = Field(6.0, gt=0, le=LONGEST, description="cutoff, Å")
    bond_graph_cutoff: float = Field(
        3.0, gt=0, le=LONGEST, description="cutoff of bonds that make angles, Å"
    )
    cutoff_coeff: int = Field(8, ge=1, le=64)
    learnable_rbf: bool = True
    gMLP_norm: Norm = "layer"  # noqa: N815 (CHGNet's name)
    readout_norm: Norm = "layer"
    conv_norm: Norm = None
    mlp_out_bias: bool = False

    @field_validator(
        "atom_conv_hidden_dim",
        "bond_conv_hidden_dim",
        "angle_layer_hidden_dim",
        "mlp_hidden_dims",
    )
    @classmethod
    def _positive(cls, widths: Widths) -> Widths:
        least = widths if isinstance(widths, int) else min(widths, default=0) - 1
        if least < 0:
            raise ValueError("must be 0 or a list of positive numbers")
        return widths

    @model_validator(mode="after")
    def _consistent(self) -> ChgnetSettings:
        if self.num_angular % 2 != 1:
            raise ValueError("num_angular must be odd")
        if self.bond_graph_cutoff > self.atom_graph_cutoff:
            raise ValueError("bond_graph_cutoff must not be above atom_graph_cutoff")
        if self.is_intensive == (self.composition_model == "MPF"):
            raise ValueError(
                f"is_intensive={self.is_intensive} does not go with the energies of "
                f"{self.composition_model}, which are {'' if self.is_intensive else 'not '}totals"
            )
        return self

    def description(self) -> list[tuple[str, str]]:
        """See `FamilySettings.description`."""
        features = (self.atom_fea_dim, self.bond_fea_dim, self.angle_fea_dim)
        return [
            ("architecture", f"CHGNet {self.version or ''}".strip()),
            ("cutoff", f"{self.atom_graph_cutoff:g} Å"),
            ("angles", f"of bonds within {self.bond_graph_cutoff:g} Å"),
            ("features", "{} of atoms, {} of bonds, {} of angles".format(*features)),
            ("convolutions", str(self.n_conv)),
            ("radial basis", f"{self.num_radial} bessel"),
            ("angular basis", f"{self.num_angular} fourier"),
            ("normalisation", "layers" if self.gMLP_norm else "none"),
            *([("discontinuous", _JUMP)] if self.mlp_out_bias else []),
            elements_row(self.atomic_numbers),
        ]

    @property
    def angle_updates(self) -> int:
        """How many times the features of bonds are updated through angles."""
        return self.n_conv - 1 if self.update_bond else 0

    def network_arguments(self) -> dict[str, Any]:
        """Return the arguments of `chgnet.model.model.CHGNet` that shape its network."""
        own = {"atomic_numbers", "atomic_energies", "composition_model", "version"}
        return self.model_dump(exclude=own)
