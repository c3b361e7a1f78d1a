"""One side of a model: its config, its layers, and where the values of its parameters come from."""
