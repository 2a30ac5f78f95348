"""Offline feature extraction with cached activations (after Oquab et al., CVPR 2014)."""

__version__ = "0.1.0"
