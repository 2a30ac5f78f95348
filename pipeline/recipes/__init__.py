"""Recipes: named systems, run with several seeds, joined and compared."""
