"""Views for people: maps, rankings, figures, the report, the live page."""
