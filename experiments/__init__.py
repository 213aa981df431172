"""The runner beside the library: commands, and the rooms that they are made of. Used from a checkout."""
