"""SevenNet as a potential, from e3nn's layers: settings, network, heads, sevenn's checkpoints."""
