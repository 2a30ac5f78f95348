"""The cache as a whole: list, verify, repair, free, explain."""
