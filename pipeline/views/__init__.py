"""What people look at: maps, rankings, figures, the report, the live page."""
