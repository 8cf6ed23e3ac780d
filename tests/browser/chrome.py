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


def look(window: webdriver.Chrome, page: Path, *, width: int, dark: bool = False, height: int = 900) -> None:
    """Open a page from disk in a window of that many CSS pixels, in light or dark colours."""
    window.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    window.get(page.resolve().as_uri())


def complaints(window: webdriver.Chrome) -> list[str]:
    """Return what the browser has put on its console since the last call."""
    entries: list[dict[str, str]] = window.get_log("browser")  # type: ignore[no-untyped-call]  # selenium leaves it untyped
    return [entry["message"] for entry in entries]
