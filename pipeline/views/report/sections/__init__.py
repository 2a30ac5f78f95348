"""Sections of the report on the data itself and on boxes, and the page of a dataset that has the first alone.

Which sections the report has, and in which order, stands in `template.html`; what they show is made by `gather` in
`pipeline.views.report.content`. Sections on the data are listed in `data_sections` in `data_page`.
"""
