"""Pure functions on arrays: average precision and bootstrap intervals."""
