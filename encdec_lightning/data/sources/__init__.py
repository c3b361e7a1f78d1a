"""Rows in, pairs out: where they lie, how they are read."""
