"""Foundation potentials: names, opening and saving, predictions, reference energies."""
