"""Weights of AlexNet and CaffeNet in the forms in which they circulate, read without running anything in them."""
