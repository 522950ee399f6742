"""Compare variants of a recipe, each tuned alike: arms, draws of labels, runs, statistics."""
