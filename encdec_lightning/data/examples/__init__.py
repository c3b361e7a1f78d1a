"""Pairs in, tokenized examples out, kept on disk."""
