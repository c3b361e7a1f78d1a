"""The job of a run's folder: train, test, export."""
