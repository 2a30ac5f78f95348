"""Inputs of the workflow's rules, settings of a job, and what is due."""
