"""What a set of labelled structures holds, and whether it is what it seems."""
