"""A browser for the tests of pages."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.browser.chrome import chromium


@pytest.fixture(scope="module")
def window() -> Iterator[Chrome]:
    """One browser for a file of tests."""
    with chromium() as opened:
        yield opened
