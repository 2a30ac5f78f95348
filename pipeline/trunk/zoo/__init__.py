"""Trunks of families and libraries, a module each; `SOURCES` in `pipeline.trunk.registry` names them."""
