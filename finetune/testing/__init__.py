"""What a test of a custom adapter, loss or potential can start from."""

from finetune.testing.analytic import HarmonicPotential
from finetune.testing.tiny import tiny_mace, tiny_settings

__all__ = ["HarmonicPotential", "tiny_mace", "tiny_settings"]
