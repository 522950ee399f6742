"""Tune the settings of a recipe on validation: search space, folds, trials, study, result."""
