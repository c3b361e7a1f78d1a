"""Runs in, tables and plots out."""
