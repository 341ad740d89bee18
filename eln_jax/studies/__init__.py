"""Studies: the same training in several arms and over several seeds, side by side."""
