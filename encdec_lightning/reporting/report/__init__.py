"""Folders of runs in, the tables of a report out."""
