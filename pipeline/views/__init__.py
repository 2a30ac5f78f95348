"""Views for people: heat maps, rankings, figures, the report, the live page."""
