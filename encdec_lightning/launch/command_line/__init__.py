"""A command line's overrides in, a config out."""
