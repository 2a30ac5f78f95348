"""Pre-training of a trunk on class folders or on a dataset's own patches."""
