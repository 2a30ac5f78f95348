"""A real browser without a window, and the accessibility checker axe. Skipped where they are not; CI fails instead."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
AXE = ROOT / "build" / "axe"


def need(found: object, what: str) -> None:
    """Skip without a tool, or in CI fail."""
    if not found:
        if os.environ.get("CI"):
            pytest.fail(f"{what} is not there, and these tests must not be skipped in CI")
        pytest.skip(f"needs {what}: see .ci/run")


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe, from the archive that the registry of npm has."""
    archive = next(iter(sorted(AXE.glob("axe-core-*.tgz"))), None)
    need(archive, "axe (npm pack axe-core --pack-destination build/axe)")
    with tarfile.open(archive) as tar:
        return tar.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(scope="session")
def browser():
    """A Chromium, driven by selenium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    need(program and shutil.which("chromedriver"), "chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    # What a page says in its console is part of what it does.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def set_screen(browser):
    """``set_screen(width, height, dark)``: the size and colour scheme of a device."""

    def set_screen(width: int, height: int, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    yield set_screen
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture
def violations(browser, axe):
    """What axe finds wrong with the page on show: one line an element."""

    def violations() -> list[str]:
        browser.execute_script(axe)
        found = browser.execute_async_script("const done = arguments[0]; axe.run().then((r) => done(r.violations));")
        return [f"{item['id']}: {node['html'][:120]}" for item in found for node in item["nodes"]]

    return violations


@pytest.fixture
def complaints(browser):
    """What the browser has logged as an error since it was asked last."""
    return lambda: [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
