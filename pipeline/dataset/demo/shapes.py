"""What the demo scenes are made of: twelve classes and some clutter.

Classes differ in shape alone, every style of each takes its colours from the one palette: a
classifier that looks at colours finds nothing here. Coordinates are those of `Canvas`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.dataset.demo.canvas import Canvas, box, ellipse, mirrored, mix, smooth, symmetric


def draw_house(c: Canvas) -> None:
    u = c.rng.uniform
    half, eaves, top = u(0.5, 0.85), u(-0.3, 0.15), u(-0.95, -0.6)
    over, roof = half + u(0.03, 0.2), c.pick(["gable", "hip", "gambrel"])
    if c.chance(0.6):
        x = half * u(0.35, 0.6)
        c.fill(box(x - 0.1, top + 0.02, x + 0.1, eaves), c.accent)
    c.fill(box(-half, eaves - 0.02, half, 0.92), c.main, c.pattern())
    knee = (eaves + top) / 2 - 0.1
    outlines = {
        "gable": [(-over, eaves), (0, top), (over, eaves)],
        "hip": [(-over, eaves), (-half * 0.5, top + 0.1), (half * 0.5, top + 0.1), (over, eaves)],
        "gambrel": [(-over, eaves), (-half * 0.7, knee), (0, top), (half * 0.7, knee), (over, eaves)],
    }  # fmt: skip
    c.fill(np.array(outlines[roof]), c.second, c.pick(["plain", "bands", "bars"]), mix(c.second, c.ink, 0.25))
    door = u(-0.3, 0.3) * half
    width = half * u(0.17, 0.24)
    c.fill(box(door - width, 0.92 - (0.92 - eaves) * u(0.5, 0.65), door + width, 0.92), c.accent)
    y, size = eaves + (0.92 - eaves) * 0.35, half * u(0.16, 0.22)
    for x in (-half * 0.68, half * 0.68):
        if abs(x - door) > width + size:
            c.fill(box(x - size, y - size, x + size, y + size * 1.2), c.light)
            c.stroke([(x, y - size), (x, y + size * 1.2)], 0.03, c.edge)
            c.stroke([(x - size, y), (x + size, y)], 0.03, c.edge)


def draw_sailboat(c: Canvas) -> None:
    u = c.rng.uniform
    deck, mast, top = u(0.35, 0.55), u(-0.2, 0.2), -0.95
    stern, bow, keel = u(0.7, 0.95), u(0.8, 1.0), u(0.8, 0.95)
    c.stroke([(mast, top), (mast, deck)], 0.06, c.ink)
    boom, foot = deck - 0.1, u(0.6, 0.85)
    belly = u(0.0, 0.16)
    luff = mast + 0.04
    leech = smooth([(luff, top + 0.05), (mast + foot * 0.62 + belly, boom - 0.55), (mast + foot, boom)], closed=False)
    c.fill([*leech, (luff, boom)], c.main, c.pattern())
    if c.chance(0.8):
        stay = mast - 0.05
        jib = smooth([(stay, top + u(0.1, 0.3)), (mast - 0.3 - belly, -0.05), (-u(0.65, 0.9), boom)], closed=False)
        c.fill([*jib, (stay, boom)], c.accent, c.pick(["plain", "plain", "bands"]), c.light)
    if c.chance(0.4):
        c.fill([(mast, top - 0.08), (mast + 0.25, top), (mast, top + 0.08)], c.second)
    hull = [(-stern, deck), (-stern * u(0.65, 0.85), keel), (bow * u(0.4, 0.65), keel), (bow, deck - 0.04)]
    c.fill(hull, c.second, c.pick(["plain", "bands"]), c.light)


def draw_car(c: Canvas) -> None:
    u = c.rng.uniform
    style, roof, belt = c.pick(["sedan", "beetle", "van", "pickup"]), u(-0.6, -0.4), u(-0.12, 0.02)
    cabins = {
        "sedan": [(-0.65, belt), (-0.4, roof), (0.25, roof), (0.55, belt)],
        "beetle": [(-0.8, belt), (-0.5, roof), (0.1, roof - 0.08), (0.5, belt)],
        "van": [(-0.93, belt), (-0.9, roof - 0.15), (0.45, roof - 0.15), (0.75, belt)],
        "pickup": [(-0.1, belt), (-0.05, roof), (0.35, roof), (0.6, belt)],
    }
    cabin = np.array(cabins[style])
    c.fill(smooth(cabin) if style == "beetle" else cabin, c.main)
    glass = cabin.mean(axis=0) + (cabin - cabin.mean(axis=0)) * (0.78, 0.7)
    c.fill(glass, c.light)
    x = glass[:, 0].mean() + u(-0.08, 0.08)
    c.stroke([(x, glass[:, 1].min()), (x, belt)], 0.06, c.main)
    nose = u(0.0, 0.12)
    body = [(-0.97, belt + 0.03), (0.6, belt), (0.95, belt + nose), (1.0, 0.42), (-0.98, 0.42)]
    c.fill(smooth(body) if style == "beetle" else np.array(body), c.main, c.pick(["plain", "plain", "bands", "dots"]))
    radius = u(0.2, 0.27)
    for x in (-u(0.52, 0.62), u(0.52, 0.62)):
        c.fill(ellipse(x, 0.42, radius), c.ink)
        c.fill(ellipse(x, 0.42, radius * 0.5), c.pick([c.light, c.second]))
    c.fill(ellipse(0.92, belt + nose + 0.14, 0.07), c.accent)


def draw_fish(c: Canvas) -> None:
    u = c.rng.uniform
    tall, tail, fork = u(0.32, 0.6), u(0.3, 0.5), u(0.0, 0.22)
    fluke = [(-0.45, 0), (-0.95, -tail), (-0.95 + fork, 0), (-0.95, tail)]
    c.fill(fluke, c.second, c.pick(["plain", "bands"]), c.main)
    c.fill(smooth([(-0.3, -tall * 0.7), (0.0, -tall - u(0.15, 0.3)), (0.4, -tall * 0.7)]), c.second)
    c.fill(smooth([(-0.1, tall * 0.7), (-0.05, tall + u(0.1, 0.25)), (0.25, tall * 0.8)]), c.second)
    # The back from tail to mouth; the belly is the same curve, turned over.
    back = np.array([(-0.6, 0), (-0.2, -tall * 0.85), (0.35, -tall), (0.8, -tall * 0.5)])
    body = np.vstack([back, [(0.98, 0.03)], back[:0:-1] * (1, -1)])
    c.fill(smooth(body), c.main, c.pick(["bars", "bars", "dots", "bands", "plain"]))
    c.stroke(ellipse(0.25, 0, 0.25, tall * 0.8, -60, 60), 0.05, c.edge)
    c.fill(ellipse(0.68, -tall * 0.25, 0.12), c.light)
    c.fill(ellipse(0.7, -tall * 0.25, 0.055), c.ink)


def draw_mushroom(c: Canvas) -> None:
    u = c.rng.uniform
    rim, wide, high = u(-0.15, 0.2), u(0.7, 0.98), u(0.65, 1.0)
    stem, foot = u(0.14, 0.26), u(0.2, 0.38)
    trunk = symmetric([(stem, rim - 0.1), (stem, 0.5), (foot, 0.88), (0, 0.95)])
    c.fill(smooth(trunk), c.second, c.pick(["plain", "plain", "bars"]), mix(c.second, c.ink, 0.2))
    if c.chance(0.5):
        c.fill(symmetric([(stem, rim + 0.15), (stem * 1.7, rim + 0.32)]), c.light)
    c.fill(ellipse(0, rim, wide * 0.93, 0.14), mix(c.second, c.ink, 0.3))
    dome = ellipse(0, rim, wide, (0.95 + rim) * high, 180, 360)
    if c.chance(0.3):
        cone = symmetric([(wide, rim), (wide * 0.55, rim - high * 0.45), (0, rim - high)])
        dome = smooth(cone[::-1], closed=False)
    cap = np.vstack([dome, ellipse(0, rim, wide, 0.1, 0, 180)])
    c.fill(cap, c.main, c.pick(["dots", "dots", "plain", "slant"]), c.light)


def draw_umbrella(c: Canvas) -> None:
    u = c.rng.uniform
    rim, high, panels = u(-0.1, 0.1), u(0.6, 0.85), int(c.rng.integers(3, 6))
    hook = u(0.12, 0.2)
    c.stroke([(0, -0.2 - high), (0, 0.8)], 0.06, c.ink)
    c.stroke(ellipse(hook, 0.8, hook, hook, 180, 0), 0.085, c.accent)
    edges = np.linspace(-0.97, 0.97, panels + 1)
    for i, (x0, x1) in enumerate(zip(edges, edges[1:], strict=False)):
        # Ribs are ellipse arcs of the dome, squeezed towards its middle.
        left = ellipse(0, rim, abs(x0), high, 180 if x0 < 0 else 360, 270)
        right = ellipse(0, rim, abs(x1), high, 270, 180 if x1 < 0 else 360)
        scallop = ellipse((x0 + x1) / 2, rim, (x1 - x0) / 2, 0.1, 0, -180)
        c.fill(np.vstack([left, right, scallop]), c.main if i % 2 else c.pick([c.second, c.second, c.main]))


def draw_teacup(c: Canvas) -> None:
    u = c.rng.uniform
    top, low, wide, base = u(-0.45, -0.15), u(0.55, 0.7), u(0.5, 0.7), u(0.2, 0.5)
    if c.chance(0.75):
        c.fill(ellipse(-0.1, low + 0.08, u(0.75, 0.9), 0.15), c.second)
    ear = u(0.2, 0.3)
    c.stroke(ellipse(wide - 0.14, (top + low) / 2 - 0.08, ear, ear * u(0.9, 1.2), -110, 120), 0.12, c.main)
    side = symmetric([(wide, top), (wide * 0.93, (top + low) / 2), (base, low)]) - (0.1, 0)
    outline = side if c.chance(0.4) else ellipse(-0.1, top, wide, low + 0.1 - top, 0, 180)
    c.fill(outline, c.main, c.pattern())
    c.fill(ellipse(-0.1, top, wide, 0.13), mix(c.main, c.ink, 0.3))
    c.fill(ellipse(-0.1, top + 0.03, wide * 0.85, 0.08), c.accent)
    if c.chance(0.6):
        for x in (-0.35, 0.1):
            steam = [(x, top - 0.2), (x + 0.1, top - 0.32), (x - 0.05, top - 0.45), (x + 0.06, top - 0.6)]
            c.stroke(smooth(steam, closed=False), 0.06, c.light)


def draw_butterfly(c: Canvas) -> None:
    u = c.rng.uniform
    reach, rise, drop, waist = u(0.75, 0.98), u(0.6, 0.9), u(0.5, 0.85), u(-0.05, 0.15)
    root = (0.04, waist)
    upper = [root, (0.3, -rise * 0.8), (reach * 0.8, -rise), (reach, -rise * 0.55), (reach * 0.75, waist - 0.05)]
    side = (reach * 0.7, waist + 0.02)
    lower = [root, side, (reach * 0.75, drop * 0.55), (reach * 0.45, drop), (0.15, drop * 0.6)]
    pattern, spots = c.pattern(), u(0.1, 0.16)
    for turned in (np.asarray, mirrored):
        c.fill(turned(smooth(lower)), c.second)
        c.fill(turned(smooth(upper)), c.main, pattern)
        c.fill(turned(ellipse(reach * 0.68, -rise * 0.55, spots)), c.accent)
        c.fill(turned(ellipse(reach * 0.45, drop * 0.5, spots * 0.8)), c.light)
        feeler = smooth([(0.02, waist - 0.3), (0.08, -rise * 0.8), (0.22, -rise - 0.1)], closed=False)
        c.stroke(turned(feeler), 0.035, c.ink)
    c.fill(ellipse(0, waist + 0.05, 0.075, 0.42), c.ink)


def draw_bicycle(c: Canvas) -> None:
    u = c.rng.uniform
    radius, spread = u(0.36, 0.43), u(0.52, 0.6)
    hub, tyre, tube = 0.4, u(0.05, 0.09), u(0.05, 0.075)
    for x in (-spread, spread):
        for angle in np.linspace(0, np.pi, int(c.rng.integers(3, 6)), endpoint=False):
            reach = radius * np.array([np.cos(angle), np.sin(angle)])
            c.stroke([(x, hub) - reach, (x, hub) + reach], 0.02, c.light)
        c.stroke(ellipse(x, hub, radius), tyre, c.ink)
    crank, seat, head = np.array((-0.08, hub)), np.array((-0.25, u(-0.2, -0.05))), np.array((0.38, u(-0.25, -0.12)))
    rear, front = np.array((-spread, hub)), np.array((spread, hub))
    dip = np.array((0, u(0.0, 0.4)))  # from a diamond frame to a step-through
    bars = [(rear, crank), (rear, seat), (crank, seat), (crank, head), (seat + dip, head + dip / 3), (head, front)]
    for a, b in bars:
        c.stroke([a, b], tube, c.main)
    c.stroke([crank, seat * 1.25 - crank * 0.25], tube, c.main)
    post = seat * 1.25 - crank * 0.25
    c.stroke([post - (0.14, 0), post + (0.1, 0)], 0.1, c.second)
    grip = head - (0.06, u(0.15, 0.3))
    c.stroke([head, grip], tube, c.main)
    bar = [grip, grip + (0.18, -0.03), grip + (0.2, 0.14)] if c.chance(0.5) else [grip + (0.05, 0), grip - (0.2, 0.04)]
    c.stroke(bar, 0.07, c.second)
    c.fill(ellipse(crank[0], crank[1], 0.09), c.accent)


def draw_snowman(c: Canvas) -> None:
    u = c.rng.uniform
    belly, chest, head = u(0.4, 0.5), u(0.3, 0.36), u(0.22, 0.28)
    y2 = 0.95 - belly
    y1 = y2 - belly * 0.8 - chest * 0.55
    y0 = y1 - chest * 0.7 - head * 0.6
    if c.chance(0.7):
        for side in (-1, 1):
            arm = np.array([(side * chest * 0.7, y1), (side * u(0.6, 0.8), y1 - u(-0.1, 0.3))])
            c.stroke(arm, 0.055, c.ink)
    c.fill(ellipse(0, y2, belly, belly * 0.95), c.main)
    if c.chance(0.75):
        c.fill(ellipse(0, y1, chest), c.main)
    else:
        y0 += chest * 0.75
    c.fill(ellipse(0, y0, head), c.main)
    for y in np.linspace(y0 + head * 1.9, y2 + 0.1, 3):
        c.fill(ellipse(0, y, 0.05), c.ink)
    c.fill(ellipse(0, y0 + head * 0.8, head * 0.95, 0.11), c.second)
    x, y = head * 0.3, y0 + head * 0.8
    c.fill(box(x, y, x + 0.15, y + u(0.2, 0.35)), c.second, "bands", c.light)
    for side in (-1, 1):
        c.fill(ellipse(side * head * 0.4, y0 - head * 0.15, 0.035), c.ink)
    c.fill([(0, y0), (head * 1.3, y0 + 0.1), (0, y0 + 0.12)], c.accent)
    brim = y0 - head * 0.6
    if c.chance(0.65):
        c.fill(box(-head * 0.75, brim - u(0.25, 0.4), head * 0.75, brim), c.ink)
        c.fill(box(-head * 1.25, brim - 0.05, head * 1.25, brim + 0.04), c.ink)
    else:
        c.fill(ellipse(0, brim + 0.05, head, head * 0.9, 180, 360), c.second, "bars", c.light)
        c.fill(ellipse(0, brim - head * 0.85, 0.08), c.light)


def draw_cat(c: Canvas) -> None:
    u = c.rng.uniform
    sitting = c.chance(0.5)
    size, y = (0.48, -0.4) if sitting else (0.85, 0.12)
    wide, tall, tip = size * u(0.95, 1.08), size * u(0.78, 0.92), size * u(1.15, 1.35)
    if sitting:
        tail = [(0.3, 0.85), (0.75, 0.8), (0.85, 0.4), (u(0.6, 0.95), 0.1)]
        c.stroke(smooth(tail, closed=False), 0.16, c.main)
        c.fill(smooth(symmetric([(0.3, -0.1), (0.55, 0.6), (0.45, 0.95)])), c.main, c.pattern())
        c.fill(ellipse(0, 0.45, 0.22, 0.32), c.light)
    for side in (-1, 1):
        ear = np.array([(wide * 0.92, y - tall * 0.2), (wide * u(0.75, 0.95), y - tip), (wide * 0.2, y - tall * 0.85)])
        ear = ear * (side, 1)
        c.fill(ear, c.main)
        c.fill(ear.mean(axis=0) + (ear - ear.mean(axis=0)) * 0.5, c.accent)
    c.fill(ellipse(0, y, wide, tall), c.main)
    for i in (-1, 0, 1) if c.chance(0.6) else ():
        c.stroke([(i * wide * 0.2, y - tall * 0.95), (i * wide * 0.15, y - tall * 0.55)], size * 0.1, c.second)
    eye = size * u(0.14, 0.2)
    for side in (-1, 1):
        c.fill(ellipse(side * wide * 0.42, y - tall * 0.08, eye, eye * u(0.8, 1.2)), c.light)
        c.fill(ellipse(side * wide * 0.42, y - tall * 0.08, eye * 0.4, eye * 0.85), c.ink)
        for rise in (-0.08, 0.12):
            whisker = [(side * wide * 0.35, y + tall * 0.35), (side * wide * 1.1, y + tall * (0.35 + rise))]
            c.stroke(whisker, 0.025, c.ink)
        c.stroke(ellipse(side * size * 0.12, y + tall * 0.38, size * 0.12, size * 0.14, 10, 170), 0.04, c.ink)
    c.fill([(-size * 0.12, y + tall * 0.2), (size * 0.12, y + tall * 0.2), (0, y + tall * 0.36)], c.accent)


def draw_chair(c: Canvas) -> None:
    u = c.rng.uniform
    half, seat, top, depth = u(0.42, 0.6), u(0.1, 0.3), u(-0.95, -0.75), u(0.15, 0.3)
    leg, splay, back = u(0.07, 0.11), u(0.0, 0.15), c.pick(["slats", "solid", "round", "ladder"])
    shift = u(0.08, 0.25)  # the far edge of the seat, seen from the side
    for x in (-half + shift, half + shift):
        c.stroke([(x, seat - depth), (x, 0.75)], leg * 0.8, mix(c.main, c.ink, 0.35))
    left, right = -half + shift, half + shift
    foot = seat - depth
    if back == "solid":
        c.fill(box(left, top, right, foot - 0.12), c.second, c.pattern(), c.accent)
    elif back == "round":
        arch = [*ellipse(shift, top + half, half, half, 180, 360), (right, foot - 0.05), (left, foot - 0.05)]
        c.fill(arch, c.second, c.pattern(), c.accent)
    elif back == "slats":
        for x in np.linspace(left, right, int(c.rng.integers(4, 6)))[1:-1]:
            c.stroke([(x, top), (x, foot)], 0.07, c.main)
        c.stroke([(left, top + 0.03), (right, top + 0.03)], 0.15, c.second)
    else:
        for y in np.linspace(top + 0.08, foot - 0.15, 3):
            c.stroke([(left, y), (right, y)], 0.1, c.second)
    for x in (left, right):
        c.stroke([(x, top + (half if back == "round" else 0)), (x, foot)], leg, c.main)
    for x, out in ((-half - 0.05, -splay), (half - 0.05, splay)):
        c.stroke([(x, seat), (x + out, 0.93)], leg, c.main)
    cushion = [(-half - 0.12, seat + 0.04), (half, seat + 0.04), (half + shift, foot), (left - 0.05, foot)]
    c.fill(cushion, c.second, c.pick(["plain", "bars", "slant"]), c.accent)
    c.fill(box(-half - 0.12, seat + 0.02, half, seat + 0.13), c.main)


CLASS_DRAWERS: dict[str, Callable[[Canvas], None]] = {
    "bicycle": draw_bicycle, "butterfly": draw_butterfly, "car": draw_car, "cat": draw_cat, "chair": draw_chair,
    "fish": draw_fish, "house": draw_house, "mushroom": draw_mushroom, "sailboat": draw_sailboat,
    "snowman": draw_snowman, "teacup": draw_teacup, "umbrella": draw_umbrella,
}  # fmt: skip


def draw_clutter(c: Canvas) -> None:
    """A shape of no class: parts that classes have too (discs, triangles, boxes, bars), never whole."""
    u, kind = c.rng.uniform, c.pick(["ball", "stone", "cloud", "leaf", "pole", "crate", "pennant", "ring"])
    if kind == "ball":
        c.fill(ellipse(0, 0, 0.75), c.main, c.pick(["bands", "bars", "dots", "plain"]))
    elif kind == "stone":
        angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        c.fill(smooth([(np.cos(a) * u(0.7, 1.0), np.sin(a) * u(0.4, 0.65)) for a in angles]), c.main, c.pattern())
    elif kind == "cloud":
        for x, y, r in ((-0.55, 0.15, 0.35), (0.55, 0.18, 0.32), (-0.1, -0.15, u(0.4, 0.55)), (0.3, 0.0, 0.4)):
            c.stroke([(x, y), (x + 0.01, y)], 2 * r, c.light)
        c.stroke([(-0.55, 0.3), (0.55, 0.3)], 0.4, c.light)
    elif kind == "leaf":
        wide = u(0.25, 0.45)
        c.fill(smooth(symmetric([(0, -0.95), (wide, -0.2), (wide * 0.8, 0.4), (0, 0.8)])), c.main)
        c.stroke([(0, -0.7), (0, 0.98)], 0.05, c.edge)
        for y in (-0.3, 0.05, 0.4):
            c.stroke([(-wide * 0.6, y - 0.2), (0, y), (wide * 0.6, y - 0.2)], 0.035, c.edge)
    elif kind == "pole":
        c.fill(box(-0.12, -1.2, 0.12, 1.2), c.main, c.pick(["bands", "slant", "plain"]))
    elif kind == "crate":
        tall = u(0.4, 0.75)
        c.fill(box(-0.7, -tall, 0.7, tall), c.main, c.pattern())
        c.stroke([(-0.7, -tall), (0.7, tall)], 0.08, c.edge)
    elif kind == "pennant":
        c.fill([(-0.7, -0.7), (0.7, -0.7), (u(-0.4, 0.4), 0.8)], c.main, c.pattern())
    else:
        c.stroke(ellipse(0, 0, 0.7), u(0.12, 0.3), c.main)
