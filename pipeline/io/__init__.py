"""Files, messages, progress and the base of settings; every room uses them, and they use no room."""
