"""Debian's Chromium, headless, driven by selenium. No test here."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_NEEDED = ("chromium", "chromedriver")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip

# What sticks out of the window, but for what lies in a box that scrolls or is cut.
OVERFLOWS = """
const wide = document.documentElement.clientWidth;
const held = (one) => { for (let box = one.parentElement; box; box = box.parentElement)
  if (getComputedStyle(box).overflowX !== "visible") return true; return false; };
return [...document.querySelectorAll("body *")].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > wide + 1 || box.left < -1) && !held(one) && !one.closest(".skip, .colon");
}).map((one) => one.outerHTML.slice(0, 120));
"""
# The smallest contrast of text with what is behind it (WCAG 2.2, 1.4.3), and where.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (one) => { const layers = [];
  for (let box = one; box; box = box.parentElement) {
    const [r, g, b, a] = rgba(getComputedStyle(box).backgroundColor);
    layers.unshift([r, g, b, a]); if (a === 1) break; }
  return layers.reduce((under, [r, g, b, a]) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a)), [255, 255, 255]);
};
let least = [99, ""];
for (const one of document.querySelectorAll("main *, .top *, nav *")) {
  if (![...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
  if (one.disabled || !one.getBoundingClientRect().width || one.closest(".colon")) continue;
  const svg = one.ownerSVGElement, ink = light(rgba(getComputedStyle(one)[svg ? "fill" : "color"]));
  const paper = light(behind(svg || one)), ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  if (ratio < least[0]) least = [ratio, one.outerHTML.slice(0, 120)];
}
return least;
"""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Yield a browser with an empty profile of its own. Both programs must be on PATH: nothing is ever downloaded."""
    browser, driver = (shutil.which(name) or pytest.fail(f"{name} is missing; run `make browser`") for name in _NEEDED)
    with tempfile.TemporaryDirectory(prefix="thaw-chromium-") as profile:
        options = Options()
        options.binary_location = browser
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        window = webdriver.Chrome(options=options, service=Service(executable_path=driver))
        try:
            yield window
        finally:
            window.quit()


def look(window: webdriver.Chrome, page: Path | str, *, width: int, dark: bool = False, height: int = 900) -> None:
    """Open a page, from disk or by its URL, in a window of that many CSS pixels, in light or dark colours."""
    window.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    window.get(page if isinstance(page, str) else page.resolve().as_uri())


def complaints(window: webdriver.Chrome) -> list[str]:
    """Return what the browser has put on its console since the last call."""
    entries: list[dict[str, str]] = window.get_log("browser")  # type: ignore[no-untyped-call]  # selenium leaves it untyped
    return [entry["message"] for entry in entries]
