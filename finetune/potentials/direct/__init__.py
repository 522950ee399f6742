"""Direct forces: a potential of another family with a head of its own for forces."""
