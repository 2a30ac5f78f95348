"""A trunk of hand-made features: Fisher vectors over local descriptors."""
