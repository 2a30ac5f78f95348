"""Pictures of what a run saw and found: drawn with matplotlib, returned as figures, written by `save`."""
