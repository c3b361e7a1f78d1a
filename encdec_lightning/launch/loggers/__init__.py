"""What a training logs in, runs of a dashboard out."""
