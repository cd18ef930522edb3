"""The page in a real browser: a click on a number and on a bar opens its source, and nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from noria.reports.document.bundle import Bundle

pytestmark = [pytest.mark.browser]


def test_a_click_on_a_number_and_on_a_bar_opens_the_source(made: tuple[Path, Bundle]) -> None:
    import shutil

    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    folder, _ = made
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        faults: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto((folder / "report.html").as_uri())
        page.locator("button.n", has_text="7.4%").first.click()
        box = page.locator("aside")
        assert "France: Unemployment rate, 2024" in box.inner_text()
        assert "7.4% (2024 est.)" in box.inner_text()
        page.keyboard.press("Escape")
        assert not box.is_visible()
        bars = page.locator('[data-chart="C2"] [data-cell]')
        assert bars.count() == 3
        bars.first.dispatch_event("click")
        assert "Median income" in box.inner_text()
        assert page.locator('[data-chart="C1"] [data-cell]').count() >= 9
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert faults == []
