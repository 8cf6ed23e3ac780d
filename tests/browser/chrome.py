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
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    window.get(page.resolve().as_uri())
