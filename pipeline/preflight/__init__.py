"""Before a run: is everything available, and how long will it take."""
