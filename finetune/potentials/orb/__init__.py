"""ORB: direct and conservative, the networks of the orb-models package; OrbMol among them."""
