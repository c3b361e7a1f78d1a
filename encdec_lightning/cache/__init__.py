"""Derived data on disk: where they lie, how they appear whole, what tells their content."""
