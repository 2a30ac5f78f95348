"""Formats of annotations other than VOC's: one module per format, which reads its files as records of pictures."""
