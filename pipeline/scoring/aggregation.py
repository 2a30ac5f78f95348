"""How patch scores become a picture's score: the name of an aggregation, checked."""

from __future__ import annotations

from pipeline.io.messages import brief

Aggregation = float | str
"""How patch scores become a picture's.

A number k is the mean of k-th powers, ``max`` the maximum, ``top:T`` the mean of the T highest,
``lme:R`` the log-mean-exp of sharpness R, ``pooled`` that there are no patch scores: the head looks
at one vector a picture.
"""
POOLED = "pooled"


def check_aggregation(value: object) -> Aggregation:
    """An aggregation in its one form; ``top:20`` and ``lme:8`` are text, k a float.

    >>> check_aggregation(5), check_aggregation("top:20")
    (5.0, 'top:20')
    >>> check_aggregation("top:0")
    Traceback (most recent call last):
    ...
    ValueError: must be a power in 1..100, max, top:T (T in 1..1000), lme:R (R in 0.1..100) or pooled, got 'top:0'
    """
    text = str(value)
    name, _, number = text.partition(":")
    try:
        amount = float(number or text)
    except ValueError:
        amount = float("nan")
    if text in ("max", POOLED):
        return text
    if name == "top" and amount in range(1, 1001):
        return f"top:{int(amount)}"
    if name == "lme" and 0.1 <= amount <= 100:
        return f"lme:{amount:g}"
    if not number and 1 <= amount <= 100:
        return amount
    raise ValueError(
        f"must be a power in 1..100, max, top:T (T in 1..1000), lme:R (R in 0.1..100) or pooled, got {brief(value)}"
    )
