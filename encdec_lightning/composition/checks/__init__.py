"""What can be said against a combination before any weight is loaded."""
