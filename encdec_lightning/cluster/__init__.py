"""Runs' folders in, jobs of a cluster out."""
