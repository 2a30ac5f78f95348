"""Trunks of families and libraries, a module each; the table that names them is `SOURCES` in `pipeline.trunk.sources`."""
