"""Exchange room: activations out into files of other programs, and rows that were made elsewhere in."""
