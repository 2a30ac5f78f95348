"""Parts of file names, against the expressions that named files before there was one function."""

import re

from hypothesis import given
from hypothesis import strategies as st

from pipeline.io.names import make_file_part

NAMES = st.text(st.sampled_from("aZ9é-_.+ /@:()ü²"), max_size=30) | st.text(max_size=10)


@given(NAMES)
def test_names_of_files_have_not_moved(name):
    assert make_file_part(name, "_.+", ascii_only=True, merge=True) == re.sub(r"[^A-Za-z0-9_.+]+", "-", name)
    assert make_file_part(name, "._+") == "".join(c if c.isalnum() or c in "._+" else "-" for c in name)
    assert make_file_part(name, ".-") == "".join(c if c.isalnum() or c in ".-" else "-" for c in name)
