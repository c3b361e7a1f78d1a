"""Two checkpoints in, one model out."""
