"""Stages of a run, from files to files: one module per stage, named as its command and its rule."""
