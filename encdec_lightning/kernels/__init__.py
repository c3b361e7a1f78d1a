"""What torch or transformers compute slowly, computed fast, with equal results."""
