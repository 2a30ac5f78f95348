"""The report and the page for trying photos, in a real browser: seen, clicked, checked for accessibility."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from support.cli import run_to_success
from support.demo import draw_small_demo
from support.processes import end
from support.threads import same_threads_after  # noqa: F401

COMMAND = [sys.executable, "-m", "pipeline.cli.main"]
SHORT = {"max_epochs": [6, 2, 1]}
CONFIG = {
    "threads": 1,
    "grid": {"scales": [1.0, 2.0], "overlap": 0.4},
    "heads": {"fca": {"hidden": [64], **SHORT}, "fcb": SHORT},
    "seeds": [0, 1],
}
"""How good the heads are is no matter of these tests."""
STEPS = (
    "extract --dataset demo --split train",
    "extract --dataset demo --split val",
    "fit-head --dataset demo --head fca --head fcb",
    "score --dataset demo --head fca",
    "evaluate --dataset demo --head fca",
    "compare --dataset demo --heads",
    "localise --dataset demo --head fca",
    "data check demo --near --labels --cosine 0.95 --correlation 0.6",
)
SCREENS = pytest.mark.parametrize(
    ("width", "height", "dark"),
    [(390, 844, False), (390, 844, True), (1440, 900, False), (1440, 900, True)],
    ids=["phone", "phone, dark", "wide", "wide, dark"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    draw_small_demo(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    run_to_success(folder, *(f"{step} --config config.yaml" for step in STEPS))
    (folder / "results/demo_heads.json").rename(folder / "results/demo_compare.json")
    run_to_success(folder, "report --dataset demo --config config.yaml")
    return folder


@SCREENS
def test_the_page_of_the_data_holds_on_every_screen(
    folder, browser, set_screen, violations, complaints, width, height, dark
):
    browser.get((folder / "results/demo_data.html").as_uri())
    set_screen(width, height, dark)
    assert fits_the_screen(browser)
    assert violations() == []
    assert complaints() == []


@pytest.fixture
def report(folder, browser) -> None:
    browser.get((folder / "results/demo_report.html").as_uri())


def fits_the_screen(browser) -> bool:
    """Whether the page itself does not scroll sideways."""
    return browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def cut_off(browser) -> list[str]:
    """Cells, pictures and lines that reach out of the screen, or whose content does not fit in them."""
    script = """
    const cut = (e) => {
      const box = e.getBoundingClientRect();
      const room = e.tagName === "TH" || e.tagName === "TD" ? 5 : 1;
      return box.right > innerWidth + 1 || box.left < -1 || e.scrollWidth > e.clientWidth + room;
    };
    return [...document.querySelectorAll("th, td, p, li, figure, caption, h1, h2, h3, summary")]
      .filter((e) => e.getClientRects().length && cut(e))
      .map((e) => e.tagName + ": " + e.textContent.trim().slice(0, 60));
    """
    return browser.execute_script(script)


@SCREENS
def test_the_report_holds_on_every_screen(report, browser, set_screen, violations, complaints, width, height, dark):
    set_screen(width, height, dark)
    assert fits_the_screen(browser)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert violations() == []
    assert complaints() == []
    assert cut_off(browser) == []
    # Every picture is really one.
    broken = "return [...document.images].filter((i) => i.complete && !i.naturalWidth).length"
    browser.execute_script("document.querySelectorAll('img').forEach((i) => (i.loading = 'eager'))")
    assert browser.execute_script(broken) == 0


def column(browser, index: int) -> list[str]:
    rows = "document.querySelector('table.sortable').tBodies[0].rows"
    script = f"return [...{rows}].map((row) => row.cells[arguments[0]].innerText)"
    return browser.execute_script(script, index)


def test_tables_sort_by_every_column(report, browser):
    headers = browser.find_elements("css selector", "table.sortable:first-of-type thead th")[:5]
    names = column(browser, 0)
    headers[1].find_element("css selector", "button").click()
    aps = [float(text) if text != "–" else -1 for text in column(browser, 1)]
    assert aps == sorted(aps, reverse=True) and headers[1].get_attribute("aria-sort") == "descending"
    headers[1].find_element("css selector", "button").click()
    aps = [float(text) for text in column(browser, 1) if text != "–"]
    assert aps == sorted(aps) and headers[1].get_attribute("aria-sort") == "ascending"
    headers[0].find_element("css selector", "button").click()
    assert column(browser, 0) == sorted(names) and headers[1].get_attribute("aria-sort") is None


def test_the_report_asks_for_nothing(report, browser):
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []


def test_on_paper_everything_is_open(report, browser):
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return [...document.querySelectorAll('details')].every((d) => d.open)")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


# --- the page for trying photos


@pytest.fixture(scope="module")
def server(folder):
    """Address of a server with two heads."""
    line = [*COMMAND, "serve", "--dataset", "demo", "--port", "0", "--config", "config.yaml"]
    process = subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE, text=True)
    said = process.stderr.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/", said)
    assert address, said
    yield address[0]
    # Not SIGINT: where the tests run in the background, it is ignored.
    process.send_signal(signal.SIGTERM)
    code, err = end(process)
    assert code == 143 and "Traceback" not in err, err


def wait(browser, script: str, seconds: float = 30.0) -> object:
    """The value of a script as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := browser.execute_script(f"return {script}")):
        assert time.monotonic() < deadline, f"not in time: {script}; {browser.find_element('id', 'status').text!r}"
        time.sleep(0.05)
    return value


SHOWN = "!document.getElementById('found').hidden && document.querySelectorAll('#maps li').length"


def photo(folder: Path, index: int = 0) -> str:
    return str(sorted((folder / "data/demo/JPEGImages").glob("*.jpg"))[index])


@SCREENS
def test_a_photo_is_looked_at(server, folder, browser, set_screen, violations, complaints, width, height, dark):
    set_screen(width, height, dark)
    browser.get(server)
    # The empty page says how to begin.
    assert len(browser.find_elements("css selector", "#examples button")) == 6
    assert "Head" in browser.find_element("id", "empty").text
    wait(browser, "[...document.querySelectorAll('#examples img')].every((i) => i.complete && i.naturalWidth)")
    assert fits_the_screen(browser)
    assert violations() == []
    browser.find_element("id", "file").send_keys(photo(folder))
    assert wait(browser, SHOWN) == 3
    assert fits_the_screen(browser)
    assert (
        "order, no probabilities" in browser.find_element("id", "meaning").text
    )  # too few pictures to learn them from
    browser.find_element("id", "more").click()
    scores = [float(cell.text) for cell in browser.find_elements("css selector", "#scores td:last-child")]
    assert scores == sorted(scores, reverse=True) and len(scores) == 12
    assert violations() == []
    assert complaints() == []


def test_head_and_k_change_without_another_look(server, folder, browser):
    browser.get(server)
    browser.find_element("id", "file").send_keys(photo(folder, 1))
    wait(browser, SHOWN)

    def top() -> str:
        return browser.execute_script("return document.querySelector('#scores td:last-child').textContent")

    before = top()
    browser.execute_script(
        "const k = document.getElementById('k'); k.value = 'max'; k.dispatchEvent(new Event('change'))"
    )
    wait(browser, f"document.querySelector('#scores td:last-child').textContent !== {json.dumps(before)}")
    with_max = top()
    browser.execute_script(
        "const h = document.getElementById('head'); h.value = 'fcb'; h.dispatchEvent(new Event('change'))"
    )
    wait(browser, f"document.querySelector('#scores td:last-child').textContent !== {json.dumps(with_max)}")
    assert browser.find_element("id", "k").get_attribute("value") == "max"
    # A class that is not among the first has its map on demand.
    browser.find_element("id", "more").click()
    button = browser.find_elements("css selector", "#scores button")[-1]
    name = button.text
    button.click()
    wait(browser, f"document.querySelector('#maps figcaption').textContent === {json.dumps(name)}")
    assert len(browser.find_elements("css selector", "#maps li")) == 4


def test_several_photos_stay_on_the_page(server, folder, browser):
    browser.get(server)
    browser.find_element("id", "file").send_keys(f"{photo(folder, 2)}\n{photo(folder, 3)}")
    wait(
        browser,
        "document.querySelectorAll('#strip button').length === 2 && document.querySelectorAll('#maps li').length",
    )
    names = [Path(photo(folder, index)).stem for index in (2, 3)]
    wait(browser, f"document.getElementById('caption').textContent.startsWith({json.dumps(names[1])})")
    browser.find_element("css selector", "#strip button").click()
    wait(browser, f"document.getElementById('caption').textContent.startsWith({json.dumps(names[0])})")
    pressed = [b.get_attribute("aria-pressed") for b in browser.find_elements("css selector", "#strip button")]
    assert pressed == ["true", "false"]


def test_an_example_is_looked_at_by_two_heads(server, browser, violations):
    browser.get(server)
    browser.find_element("css selector", "[data-example='1']").click()
    wait(browser, SHOWN)
    browser.execute_script(
        "const o = document.getElementById('other'); o.value = 'fcb'; o.dispatchEvent(new Event('change'))"
    )
    wait(browser, "document.querySelectorAll('#maps .pair img').length === 6")
    columns = [cell.text for cell in browser.find_elements("css selector", "#columns th")]
    assert columns == ["Class", "Score fca", "Score fcb"]
    assert violations() == []


def test_another_k_of_a_second_head_and_a_scale_below_0_are_said(server, browser):
    browser.get(server)
    browser.find_element("css selector", "[data-example='0']").click()
    wait(browser, SHOWN)
    assert browser.find_element("id", "lowest").text == "0"
    browser.execute_script(
        "const [one] = shown; show([one, {...one, head: 'other', k: 'pooled', lowest: -2.5, highest: -1}]);"
    )
    columns = [cell.text for cell in browser.find_elements("css selector", "#columns th")]
    assert columns == ["Class", "Score fca", "Score other (k = pooled)"]
    assert "other (k = pooled): Scores are an order" in browser.find_element("id", "meaning").text
    assert browser.find_element("id", "lowest").text == "fca 0, other -2.5"
    assert "other -1.0 mean score" in browser.find_element("id", "highest").text


def test_an_example_that_is_not_there_is_said(server):
    for request in (
        urllib.request.Request(f"{server}examples/99"),
        urllib.request.Request(f"{server}photos", b"example=99"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request)


def test_what_is_no_photo_is_said(server, folder, browser):
    browser.get(server)
    browser.find_element("id", "file").send_keys(str(folder / "config.yaml"))
    text = wait(
        browser,
        "document.getElementById('status').classList.contains('error') && "
        "document.getElementById('status').textContent",
    )
    assert "cannot be decoded" in text


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example:80"}, {"Origin": "http://evil.example"}], ids=["another name", "another site"]
)
def test_other_sites_are_refused(server, headers):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(server, headers=headers))


def test_it_listens_on_this_machine_alone(server):
    port = int(server.rstrip("/").rpartition(":")[2])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if int(local.split(":")[1], 16) == port and state == "0A":
            assert local.startswith("0100007F")  # 127.0.0.1
            return
    pytest.fail("the port is not there")


def test_a_photo_that_is_gone_is_said(server):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{server}photos/nosuch")
    assert error.value.code == 404 and "drop the photo again" in json.loads(error.value.read())["error"]


def test_a_taken_port_is_said(server, folder):
    port = server.rstrip("/").rpartition(":")[2]
    line = [*COMMAND, "serve", "--dataset", "demo", "--port", port, "--config", "config.yaml"]
    ended = subprocess.run(line, cwd=folder, capture_output=True, text=True, env=os.environ, timeout=120)
    assert ended.returncode == 2 and "--port 0 takes any" in ended.stderr
