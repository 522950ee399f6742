"""Optimisers: gradient descent (Adam, AdamW) and Gauss-Newton, behind one contract."""
