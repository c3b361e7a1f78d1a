"""Cross-attention for language models that have none."""
