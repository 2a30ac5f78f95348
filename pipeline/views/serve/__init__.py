"""A page in the browser for trying photos by hand."""
