"""What changed since the run before, in words."""

from pipeline.views.report.since import MOST_CHANGES, changes_of


def test_of_many_changes_the_number_of_all_is_said():
    before, now = ({"recipe": {f"s{n}": n + shift for n in range(MOST_CHANGES + 3)}} for shift in (0, 1))
    rows = changes_of(before, now)
    assert rows[:2] == [("s0", "0", "1"), ("s1", "1", "2")]
    assert len(rows) == MOST_CHANGES + 1 and rows[-1] == ("and more", "", f"{MOST_CHANGES + 3} in all")
