"""CHGNet: settings, the potential, and the files of the chgnet package."""
