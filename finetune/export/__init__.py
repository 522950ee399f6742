"""Hand a fine-tuned potential on: bundles, ASE calculators, plain MACE models."""
