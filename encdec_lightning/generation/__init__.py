"""Batches in, predictions out."""
