"""Ranges of options in, values to try out, and what became of them in a file."""
