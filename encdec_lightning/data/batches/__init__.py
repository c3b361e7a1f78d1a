"""Examples in, batches out: which examples make up a step, and in which order."""
