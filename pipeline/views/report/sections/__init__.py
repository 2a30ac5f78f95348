"""Sections of the report on the data itself and on boxes, and the page of a dataset that has the first alone."""
