"""Drawn datasets: scenes with objects, and people in action."""
