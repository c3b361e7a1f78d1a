"""Processes for run folders."""
