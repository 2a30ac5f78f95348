"""Names of trunks, layers and the like as parts of file names."""

from __future__ import annotations

import re


def make_file_part(name: str, keep: str, *, ascii_only: bool = False, merge: bool = False) -> str:
    """Replace by ``-`` every character that is no letter or digit and not in `keep`.

    Parameters
    ----------
    ascii_only : letters and digits of ASCII alone count as such
    merge : several ``-`` in a row become one

    >>> make_file_part("timm/vit@norm:tokens", "._+"), make_file_part("out/my trunk (2)", "_.+", merge=True)
    ('timm-vit-norm-tokens', 'out-my-trunk-2-')
    """
    part = "".join(c if c in keep or (c.isalnum() and (c.isascii() or not ascii_only)) else "-" for c in name)
    return re.sub("-+", "-", part) if merge else part
