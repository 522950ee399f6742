"""Physical checks that a table of errors hides: walls, bonds, torsions, frequencies, forgetting."""
