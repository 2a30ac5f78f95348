"""Trunks of other libraries."""
