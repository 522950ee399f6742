"""File formats: each opens as a stream of structures with labels by name."""
