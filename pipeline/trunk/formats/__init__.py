"""Weights of AlexNet and CaffeNet in the formats in which they circulate, read without running any of their code."""
