"""MACE as a potential: settings, heads, safe opening of its files, acceleration, LAMMPS."""
