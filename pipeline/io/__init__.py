"""Files, messages, progress and the base of settings: what every room needs, and needs no room."""
