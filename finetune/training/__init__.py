"""Optimise the weights that an adapter frees."""
