"""Draw the pictures of the documentation, from the drawn demo: ``docs/pictures/*.png`` and what they were made from.

    python tools/draw_docs_pictures.py                # all of them; a few minutes, and seconds when run again
    python tools/draw_docs_pictures.py map ranking    # these

It needs Chromium and its driver for the pages. ``docs/pictures/made.json`` holds the size of each picture and when it
was made; a test draws again what needs no browser, and says which pictures are older than the code that draws them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs/pictures"
WORK = ROOT / "build/docs_pictures"
COLORS = 256
"""Of a picture's palette: a third of the bytes; dots in place of bands where colours run into each other."""
MOST_PX = 1400
WIDE, PHONE = (1280, 1500), (390, 844)
RECIPES = ("strong", "svm", "knn", "ncm")
PICTURE, TAUGHT, CLASSES = "val_0005", "train_0004", "cat,house,mushroom"

VIEWS = "pipeline/views"
SOURCES = {
    "map": [f"{VIEWS}/figures/heat_maps.py", f"{VIEWS}/heat_maps.py"],
    "ranking": [f"{VIEWS}/figures/ranking.py", f"{VIEWS}/ranking.py"],
    "taught": [f"{VIEWS}/figures/taught.py", f"{VIEWS}/taught.py"],
    "report": [f"{VIEWS}/report"],
    "report-phone": [f"{VIEWS}/report"],
    "serve": [f"{VIEWS}/serve"],
    "curve": [f"{VIEWS}/figures/curves.py"],
    "comparison": [f"{VIEWS}/figures/curves.py"],
}
"""Code that decides how each picture looks, relative to the repository."""


def run(line: str, folder: Path = WORK) -> None:
    """Run a command of the package in the work folder."""
    print(f"$ pipeline {line}", flush=True)
    subprocess.run([sys.executable, "-m", "pipeline.cli.main", *line.split()], cwd=folder, check=True)


def prepare() -> None:
    """Make a work folder with all results of the demo; what is done is not done again."""
    WORK.mkdir(parents=True, exist_ok=True)
    if not (WORK / "data_manifests").exists():
        (WORK / "data_manifests").symlink_to(ROOT / "data_manifests")
    run("data fetch demo")
    for split in ("train", "val"):
        run(f"extract --dataset demo --split {split}")
    for stage in ("fit-head", "score", "evaluate"):
        run(f"{stage} --dataset demo --head weak --head fca")
    asked = " ".join(f"--recipe {name}" for name in RECIPES)
    run(f"compare --dataset demo {asked}")
    if not (WORK / "results/demo_curve.json").is_file():  # it would be computed again
        run("curve --dataset demo --recipe svm --recipe knn --recipe ncm --pictures 10,30,100,all")
    run("report --dataset demo --figures figures")


def draw_map(folder: Path = WORK) -> Path:
    """Draw the heat maps of one scene."""
    run(f"map --dataset demo {PICTURE} --classes {CLASSES}", folder)
    return folder / f"maps/{PICTURE}_map.png"


def draw_ranking(folder: Path = WORK) -> Path:
    """Draw the highest right and wrong pictures of a class."""
    run("ranking --dataset demo --classes cat --top 6", folder)
    return folder / "ranking/demo_val_fca_cat.png"


def draw_taught(folder: Path = WORK) -> Path:
    """Draw the labelled patches of one scene."""
    run(f"taught --dataset demo {TAUGHT}", folder)
    return folder / f"taught/{TAUGHT}_patches.png"


def photograph(page: str, size: tuple[int, int], act: Callable[[object], None] | None = None) -> Path:
    """Photograph a page in a browser of a size, from its top."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    if not options.binary_location:
        raise SystemExit("no chromium: pages are photographed in it")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        light = [{"name": "prefers-color-scheme", "value": "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": light})
        driver.get(page)
        if act is not None:
            act(driver)
        path = WORK / "page.png"
        driver.save_screenshot(str(path))
        return path
    finally:
        driver.quit()


def photograph_serve() -> Path:
    """Photograph the page for trying photos, with an example that was looked at by two heads."""
    line = [sys.executable, "-m", "pipeline.cli.main", "serve", "--dataset", "demo", "--port", "0"]
    server = subprocess.Popen(line, cwd=WORK, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        address = None
        while address is None:
            said = server.stderr.readline()
            if not said:
                raise SystemExit("the server did not start")
            address = re.search(r"http://127\.0\.0\.1:\d+/", said)

        def look(driver: object) -> None:
            from selenium.webdriver.support.ui import WebDriverWait

            driver.execute_script("document.querySelector('[data-example]').click()")  # type: ignore[attr-defined]
            done = "return document.querySelectorAll('#maps li').length > 0"
            WebDriverWait(driver, 120).until(lambda d: d.execute_script(done))
            driver.execute_script("document.getElementById('status').textContent = ''")  # type: ignore[attr-defined]

        return photograph(address[0], (1280, 1000), look)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        server.stderr.close()


def chart(name: str) -> Callable[[], Path]:
    """Return what photographs a chart that the report wrote as SVG."""

    def draw() -> Path:
        svg = (WORK / f"figures/{name}.svg").read_text()
        width, height = (round(float(side) * 4 / 3) for side in re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2])
        page = WORK / f"{name}.html"
        style = "body { margin: 8px; background: white; } svg { display: block; }"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{svg[svg.index('<svg') :]}")
        return photograph(page.as_uri(), (width + 16, height + 16))

    return draw


def report(size: tuple[int, int]) -> Callable[[], Path]:
    """Return what photographs the top of the report."""
    return lambda: photograph((WORK / "results/demo_report.html").as_uri(), size)


DRAWERS: dict[str, Callable[[], Path]] = {
    "map": draw_map,
    "ranking": draw_ranking,
    "taught": draw_taught,
    "report": report(WIDE),
    "report-phone": report(PHONE),
    "serve": photograph_serve,
    "curve": chart("learning"),
    "comparison": chart("comparison"),
}


def shrink(source: Path, target: Path) -> tuple[int, int]:
    """Write a picture with a palette, at most `MOST_PX` wide; return its width and height."""
    with Image.open(source) as picture:
        image = picture.convert("RGB")
    if image.width > MOST_PX:
        image = image.resize((MOST_PX, round(image.height * MOST_PX / image.width)), Image.Resampling.LANCZOS)
    palette = image.quantize(COLORS, Image.Quantize.MAXCOVERAGE)
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
    return image.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(DRAWERS)}; default: all")
    names = parser.parse_args().names or list(DRAWERS)
    if unknown := sorted(set(names) - set(DRAWERS)):
        parser.error(f"no picture {', '.join(unknown)}; there are {', '.join(DRAWERS)}")
    prepare()
    TARGET.mkdir(parents=True, exist_ok=True)
    record = TARGET / "made.json"
    made = json.loads(record.read_text()) if record.is_file() else {}
    for name in names:
        width, height = shrink(DRAWERS[name](), TARGET / f"{name}.png")
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        if name == "map":  # the README's
            with Image.open(TARGET / "map.png") as picture:
                picture.convert("RGB").save(ROOT / "docs/map.jpg", quality=85)
        made[name] = {"made": today, "width": width, "height": height}
        print(f"docs/pictures/{name}.png: {width} x {height}")
    record.write_text(json.dumps(dict(sorted(made.items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
