"""The browser that tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.browser import Browser, browser, chromium


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser with one page, as wide as a small laptop; without one the tests are skipped."""
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium found: apt-get install chromium, or set CHROMIUM")
    with browser(executable, tmp_path_factory.mktemp("profile")) as page:
        page.size(1366, 900)
        yield page
