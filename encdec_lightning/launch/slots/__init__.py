"""The open slots: `_target_` nodes in, objects out."""
