"""The page of a sweep in a browser: `make browser`, with Chromium as apt-get install chromium brings it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from launch.browser import Browser, await_until
from test_watch import directory  # noqa: F401

from kleiber.experiments.cli import main
from kleiber.experiments.watching.page import Server
from kleiber.experiments.watching.state import Watch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_trainer.py"


@pytest.fixture
def browser(tmp_path):
    found = Browser(tmp_path / "profile")
    yield found
    found.close()


@pytest.fixture
def page(directory):  # noqa: F811
    server = Server(Watch(directory), "127.0.0.1", 0)
    server.serve()
    yield server
    server.close()


def tip(browser, figure):
    return browser.value(f"document.querySelector('#{figure} .tip').textContent")


def labels(browser, figure):
    return browser.value(f"[...document.querySelectorAll('#{figure} > text')].map(t => t.textContent)")


def place_of(browser, figure, x, y):
    """Returns where a point of a figure, in its own coordinates, is on the screen."""
    found = f"document.querySelector('#{figure}').getBoundingClientRect()"
    box = browser.value(f"(r => [r.left, r.top, r.width, r.height])({found})")
    return box[0] + x / 560 * box[2], box[1] + y / 332 * box[3]


def test_a_page_shows_cells_curves_and_forecasts_and_runs_no_text_of_a_run(browser, page):
    browser.open(page.address)
    assert browser.value("document.querySelectorAll('#cells tr').length") == 1 + 5
    states = browser.value("[...document.querySelectorAll('#cells td[class]')].map(t => t.textContent)")
    assert {"running", "failed", "waiting"} <= set(states)
    assert browser.value("document.querySelectorAll('polyline').length") == 1
    assert "[31mbad luck" in browser.value("document.querySelector('#cells').textContent")
    assert browser.complaints == []  # no error, and no policy that was broken


def test_figures_show_values_under_the_pointer_zoom_by_the_wheel_and_come_back(browser, page):
    browser.open(page.address)
    path = browser.value("document.querySelector('#curves polyline').getAttribute('points')")
    x, y = (float(part) for part in path.split()[-1].split(","))
    browser.pointer("mouseMoved", *place_of(browser, "curves", x, y))
    assert tip(browser, "curves").endswith("2.5000 at 2.05k tokens")  # the last step of the running trunk, by hand
    seen = browser.value("given.at")
    await_until(lambda: browser.value("document.querySelector('#tiles').textContent").count(seen) == 0)
    assert tip(browser, "curves").endswith("2.5000 at 2.05k tokens")  # a newer state has been drawn
    browser.pointer("mouseMoved", *place_of(browser, "forecasts", 300, 150))
    before = labels(browser, "curves")
    for figure in ("curves", "forecasts"):
        browser.pointer("mouseWheel", *place_of(browser, figure, 300, 150), deltaX=0, deltaY=-400)
    await_until(lambda: labels(browser, "curves") != before)
    drawn = browser.value("document.querySelector('#curves polyline').getAttribute('points')")
    browser.pointer("mousePressed", *place_of(browser, "curves", 300, 150), button="left", clickCount=1)
    browser.pointer("mouseMoved", *place_of(browser, "curves", 350, 150), button="left", buttons=1)
    browser.pointer("mouseReleased", *place_of(browser, "curves", 350, 150), button="left", clickCount=1)
    moved = browser.value("document.querySelector('#curves polyline').getAttribute('points')")
    shift = [float(b.split(",")[0]) - float(a.split(",")[0]) for a, b in zip(drawn.split(), moved.split(), strict=True)]
    assert shift == pytest.approx([50, 50], abs=1.0)  # dragged by 50 units of the drawing
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            browser.pointer(kind, *place_of(browser, "curves", 300, 150), button="left", clickCount=count)
    assert labels(browser, "curves") == before and browser.complaints == []


def test_an_exported_page_stands_alone(browser, directory, tmp_path):  # noqa: F811
    assert main(["watch", str(directory), "--export", str(tmp_path / "page.html")]) == 0
    browser.open((tmp_path / "page.html").as_uri())
    assert browser.value("document.querySelectorAll('polyline').length") == 1 and browser.complaints == []


def test_a_page_of_all_addresses_lives_with_its_token_and_shows_nothing_without(browser, directory):  # noqa: F811
    server = Server(Watch(directory), "0.0.0.0", 0)
    server.serve()
    place = f"http://127.0.0.1:{server.port}/"
    browser.open(place)
    assert browser.value("document.body.textContent").startswith("not for you")
    browser.complaints.clear()  # of the 403
    browser.open(f"{place}?{urlsplit(server.address).query}")
    seen = browser.value("given.at")
    await_until(lambda: browser.value("document.querySelector('#tiles').textContent").count(seen) == 0)
    server.close()
    assert browser.complaints == []


def test_a_running_sweep_is_seen_as_it_goes_and_nothing_is_written_by_looking(browser, tmp_path):
    out = tmp_path / "out"
    kleiber = [sys.executable, "-m", "kleiber.experiments.cli"]
    line = [*kleiber, "sweep", str(EXAMPLE), "--out", str(out), "--workers", "1", "--no-report"]
    with open(tmp_path / "log", "w") as log:
        sweep = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
        await_until(lambda: list(out.glob("runs/*/progress.json")))
        os.killpg(sweep.pid, signal.SIGSTOP)  # however long the browser takes
        watch = subprocess.Popen([*kleiber, "watch", str(out)], stdout=log, stderr=log)
    address = await_until(lambda: re.search(r"page: (http://127.0.0.1:\d+/)", (tmp_path / "log").read_text()))[1]
    browser.open(address)
    os.killpg(sweep.pid, signal.SIGCONT)
    seen = [browser.value("document.title")]
    while sweep.poll() is None:
        if (title := browser.value("document.title")) != seen[-1]:
            seen.append(title)
    browser.picture(tmp_path / "page.png")
    assert sweep.wait() in (0, 3) and len(seen) > 5, (tmp_path / "log").read_text()
    points = [int(title.partition("/")[0]) for title in seen]
    assert points == sorted(points) and await_until(lambda: browser.value("document.title").startswith("14/14"))
    written = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in out.rglob("*")}
    browser.open(address)
    assert json.loads(urllib.request.urlopen(f"{address}state.json").read())["points"] == [14, 14]
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(address, data=b"{}")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in out.rglob("*")} == written
    assert browser.value("document.querySelectorAll('#forecasts path').length") == 2  # both outcomes
    assert browser.complaints == []
    watch.terminate()
    watch.wait()
