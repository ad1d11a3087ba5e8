"""The page in a real browser: six players on one clock, keys, colours, a phone's width, and not one request."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from make_page import EVIL_SHOWN, EXCERPT_S

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium (extra test)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt install chromium chromium-driver")
WAIT_S = 60
# Notes what the page asks of the browser's audio, and whatever goes wrong.
SPY = """
window.spy = {starts: [], gains: [], wrong: []};
const {start} = AudioBufferSourceNode.prototype;
AudioBufferSourceNode.prototype.start = function (...when) { spy.starts.push(when); return start.apply(this, when); };
const {createGain} = BaseAudioContext.prototype;
BaseAudioContext.prototype.createGain = function () { spy.gains.push(createGain.call(this)); return spy.gains.at(-1); };
window.hit = () => spy.wrong.push("a name ran");
addEventListener("error", (event) => spy.wrong.push(event.message));
addEventListener("unhandledrejection", (event) => spy.wrong.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => spy.wrong.push(event.violatedDirective));
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for name in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{name}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SPY})
    yield driver
    driver.quit()


class Page:
    """The loaded page, and what the tests do with it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, WAIT_S, 0.05).until(lambda _: self.run(f"return {condition}"), condition)

    def press(self, *keys: str) -> None:
        for key in keys:
            webdriver.ActionChains(self.driver).send_keys(key).perform()

    def click(self, selector: str) -> None:
        element = self.driver.find_element("css selector", selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def is_playing(self) -> bool:
        return self.run("return document.getElementById('play').getAttribute('aria-label')") == "Pause"

    def chosen(self) -> list[str]:
        return self.run("return [...document.querySelectorAll('.sound [aria-pressed=true]')].map((b) => b.ariaLabel)")

    def position(self) -> float:
        return float(self.run("return document.getElementById('seek').value"))

    def look(self, dark: bool = False, width: int = 1280) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 640}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


NAMES = [f"{name}, {kind}" for name in ("Mix", "Vocals", "Accompaniment") for kind in ("original", "decoded")]


@pytest.fixture
def loaded(browser, page) -> Iterator[Page]:
    """The page, opened anew; afterwards nothing has gone wrong in it, and nothing but it was asked for."""
    opened = Page(browser)
    opened.look()
    browser.get_log("performance")
    browser.get(page.as_uri())
    opened.wait("!document.getElementById('play').disabled")
    yield opened
    assert opened.run("return spy.wrong") == []
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert page.as_uri() in asked and all(url == page.as_uri() or url.startswith("data:") for url in asked)
    assert opened.run("return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'))") == []


def test_six_players_load_and_all_pictures_are_drawn(loaded):
    seconds = loaded.run("return [...document.querySelectorAll('.sound button')].map((b) => [b.ariaLabel, b.dataset.seconds])")
    assert [name for name, _ in seconds] == NAMES
    assert all(abs(float(length) - EXCERPT_S) < 0.1 for _, length in seconds)
    colours = loaded.run("""return [...document.querySelectorAll('canvas')].map((canvas) => {
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(new Uint32Array(pixels.buffer)).size;
    })""")
    codes = loaded.run("return data.codes")
    assert len(colours) == 6 * 2 + 2 and min(colours[:12]) > 10
    for found, track in zip(colours[12:], codes, strict=True):  # the canvas, and a colour for each code; few look the same
        assert 0.8 * len(set(track)) < found - 1 <= len(set(track))
    assert loaded.chosen() == [NAMES[0]] and not loaded.is_playing()
    scores = loaded.run("return [...document.querySelectorAll('#scores td:last-child')].map((cell) => cell.textContent)")
    assert len(scores) == 10 and all(float(score) > 0 for score in scores)


def test_one_clock_plays_all_and_a_choice_keeps_the_place(loaded):
    loaded.press("l")
    loaded.click("#play")
    assert loaded.is_playing()
    loaded.wait("player.position() > 0.2")
    assert loaded.run("return player.context.state") == "running"
    for i in (3, 1, 5, 0, 4, 2):
        before, after = loaded.run(
            """const before = player.position(); document.querySelectorAll('.sound button')[arguments[0]].click();
            return [before, player.position()]""",
            i,
        )
        assert abs(before - after) < 0.05 and loaded.chosen() == [NAMES[i]] and loaded.is_playing()
        loaded.wait(f"spy.gains.every((gain, i) => Math.abs(gain.gain.value - (i === {i})) < 0.01)")
    starts = loaded.run("return spy.starts")
    assert len(starts) == 6 and all(start == starts[0] for start in starts)
    assert loaded.run("return document.getElementById('status').textContent") == f"Playing: {NAMES[2]}"
    at, line = loaded.run("return [player.position(), Number(document.documentElement.style.getPropertyValue('--at'))]")
    assert 0 <= at <= EXCERPT_S and 0 < line <= 1


def test_the_end_stops_and_the_line_goes_back(loaded):
    loaded.run("const s = document.getElementById('seek'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", 3.8)
    assert loaded.position() == pytest.approx(3.8, abs=0.01)
    loaded.press(" ")
    loaded.wait("player.playing === false")
    assert loaded.position() == 0 and not loaded.is_playing()


def test_keys(loaded):
    loaded.press(" ")
    assert loaded.is_playing()
    loaded.press(" ", "\ue011")  # Home
    assert not loaded.is_playing() and loaded.position() == 0
    loaded.press("\ue014")  # right
    assert loaded.position() == 2
    loaded.press("\ue014", "\ue014", "\ue012")  # right to the end, left
    assert loaded.position() == pytest.approx(EXCERPT_S - 2, abs=0.05)
    for i, name in enumerate(NAMES):
        loaded.press(str(i + 1))
        assert loaded.chosen() == [name]
    loaded.press("c")
    assert loaded.chosen() == [NAMES[4]] and loaded.position() == pytest.approx(EXCERPT_S - 2, abs=0.05)
    code = loaded.run("return data.codes[1][Math.floor(player.position() * 25)]")
    assert loaded.run("return document.querySelectorAll('output')[1].value") == str(code)


def test_everything_is_reached_by_tab_and_seen_when_it_is(loaded):
    reached = []
    for _ in range(11):
        loaded.press("\ue004")
        reached.append(loaded.run("return document.activeElement.ariaLabel || document.activeElement.textContent"))
        outline, is_on_top = loaded.run("""const {activeElement} = document;
            const {left, top, width, height} = activeElement.getBoundingClientRect();
            const seen = document.elementFromPoint(left + width / 2, top + height / 2);
            return [getComputedStyle(activeElement).outlineStyle, activeElement.contains(seen)];""")
        assert outline == "solid" and is_on_top, reached
    assert reached == ["Switch to dark colours", "Play", "Position", "Compare", "Loop", *NAMES]
    loaded.press(" ")  # on the button of the last sound: chooses it
    assert loaded.chosen() == [NAMES[5]] and not loaded.is_playing()
    loaded.press(" ")  # which is chosen now
    assert loaded.is_playing()


def test_dark_and_light(loaded):
    def colours() -> list[str]:
        return loaded.run("""const canvas = document.querySelector('canvas');
            return [getComputedStyle(document.body).backgroundColor, canvas.toDataURL()]""")

    light = colours()
    loaded.look(dark=True)
    loaded.wait("document.getElementById('theme').textContent === 'Light'")
    dark = colours()
    assert light[0] == "rgb(251, 250, 247)" and dark[0] == "rgb(18, 19, 24)" and light[1] != dark[1]
    loaded.click("#theme")
    assert colours() == light
    loaded.look(dark=False)
    loaded.click("#theme")
    assert colours() == dark


def test_a_phone_shows_all_of_it(loaded):
    loaded.look(width=390)
    assert loaded.run("return document.documentElement.scrollWidth") == 390
    boxes = loaded.run("return [...document.querySelectorAll('button, input')].map((e) => e.getBoundingClientRect())")
    assert all(box["height"] >= 26 and box["width"] >= 40 and box["left"] >= 0 and box["right"] <= 390 for box in boxes)
    loaded.click(".track:nth-child(2) .sound:nth-child(3) button")
    assert loaded.chosen() == [NAMES[3]]
    place = loaded.run("""const view = document.querySelector('.view'); const box = view.getBoundingClientRect();
        view.dispatchEvent(new MouseEvent('click', {clientX: box.left + box.width / 4}));""")
    assert place is None and loaded.position() == pytest.approx(EXCERPT_S / 4, abs=0.05) and loaded.chosen() == [NAMES[0]]


def test_a_bad_name_is_shown_as_text(loaded):
    assert loaded.run("return document.getElementById('title').textContent") == EVIL_SHOWN
    assert loaded.driver.title == f"{EVIL_SHOWN} · duotok"
    assert loaded.run("return document.querySelectorAll('img, script').length") == 2
    assert loaded.run("return document.querySelector('.credit').textContent") == "<b>Someone</b>"
