"""Numbers as a person reads them: durations, bytes, counts."""

from __future__ import annotations

import re

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def parse_count(text: str) -> int | None:
    """Read a whole number above 0 that is written in plain digits; None for any other text.

    ``str.isdigit`` takes digits that ``int`` refuses, such as a superscript, and ``int`` refuses thousands of digits.

    >>> parse_count("12"), parse_count("0"), parse_count("\u00b2"), parse_count("9" * 5000)
    (12, None, None, None)
    """
    return int(text) or None if re.fullmatch("[0-9]{1,18}", text) else None


def format_seconds(seconds: float) -> str:
    """Format a duration that was measured.

    >>> format_seconds(7.2), format_seconds(125), format_seconds(7500)
    ('7s', '2m05s', '2h05m')
    """
    whole = int(round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def format_bytes(n_bytes: float) -> str:
    """Format a number of bytes that was measured.

    >>> format_bytes(700), format_bytes(2560), format_bytes(3 * 2**30)
    ('700 B', '2.5 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


def format_number(value: float) -> str:
    """Format an estimate with three digits or more, never with an exponent.

    >>> format_number(0.1234), format_number(12.34), format_number(1234.5)
    ('0.12', '12.3', '1,234')
    """
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def estimate_time(hours: float) -> str:
    """Format an estimated duration, up to many years.

    >>> estimate_time(0.01), estimate_time(0.5), estimate_time(30), estimate_time(100), estimate_time(87600)
    ('36 s', '30 min', '30.0 h', '100 h (4.17 days)', '87,600 h (10.0 years)')
    """
    if hours < 0.025:
        return f"{hours * 3600:.0f} s" if hours > 0.0027 else f"{hours * 3600:.1f} s"
    if hours < 1.5:
        return f"{hours * 60:.0f} min"
    days = hours / 24
    long = f" ({format_number(days)} days)" if days < 730 else f" ({format_number(days / 365)} years)"
    return f"{format_number(hours)} h" + (long if days > 2 else "")


def estimate_bytes(n_bytes: float) -> str:
    """Format an estimated number of bytes, with three digits at least.

    >>> estimate_bytes(2048), estimate_bytes(22.5 * 2**30), estimate_bytes(3 * 2**50)
    ('2.00 KiB', '22.5 GiB', '3.00 PiB')
    """
    for unit in UNITS:
        if n_bytes < 1000 or unit == UNITS[-1]:
            break
        n_bytes /= 1024
    return f"{n_bytes:.0f} B" if unit == "B" else f"{format_number(n_bytes)} {unit}"


def format_count(n: int) -> str:
    """Format a count, large ones in words.

    >>> format_count(22531), format_count(640_000_000), format_count(10**9)
    ('22,531', '640 million', '1 billion')
    """
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if n >= unit:
            return f"{n / unit:.4g} {name}" if n < 1000 * unit else f"{n / unit:,.0f} {name}"
    return f"{n:,}"
