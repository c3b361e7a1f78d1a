"""Sections of a report in, one page of HTML out."""
