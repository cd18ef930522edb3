"""Remakes the README's screenshots: `python docs/screenshots.py RUN`, where RUN is the folder of a shop's season.

It opens the shop again, and looks at its pages with the Chromium of this machine: a conversation on the page for
people, and the console's experiments. Needs the extra `dev`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from noria.assistant.world.settings import SeasonConfig
from noria.assistant.world.shop import opened_shop
from noria.core.picture_files import png
from noria.editing.world.tasks import take

HOME = Path(__file__).parent / "pictures"
SIZE = {"width": 1100, "height": 820}
COLOURS, LARGEST = 160, 150_000


def main() -> None:
    """Take the screenshots."""
    from playwright.sync_api import sync_playwright

    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    path = next(filter(None, browsers), None)
    if path is None:
        raise SystemExit("there is no Chromium: install one (apt-get install chromium)")
    HOME.mkdir(exist_ok=True)
    learner = SeasonConfig().learning()
    with opened_shop(Path(sys.argv[1]).resolve(), learner=learner) as shop, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(f"{shop.url}/chat")
        talk(page)
        kept(page, HOME / "chat.png")
        page.goto(f"{shop.url}/experiments")
        kept(page, HOME / "console.png")
        browser.close()


def talk(page: Any) -> None:
    """Ask for a product, and have a picture edited; only Twemoji's drawings are to be seen, which may be passed on."""
    task = next(task for task in take("train", 7, 40) if task.event.kinds == ("mirror",))
    for words, picture in (
        ("is red apple in stock, 5 euros is my limit", b""),
        (task.instruction, png(task.image)),
    ):
        if picture:
            file = {"name": "picture.png", "mimeType": "image/png", "buffer": picture}
            page.set_input_files("input[name=picture] >> nth=0", file)
        page.fill("#message", words)
        page.keyboard.press("Enter")
        page.wait_for_selector("#pending", state="detached")
    page.wait_for_timeout(500)


def kept(page: Any, target: Path) -> None:
    """Keep a picture of the page, in few colours."""
    page.screenshot(path=target)
    Image.open(target).convert("RGB").quantize(COLOURS).save(target, optimize=True)
    size = target.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{target} has {size:,} bytes, {LARGEST:,} are allowed")
    print(f"{size:,} bytes  {target}")


if __name__ == "__main__":
    main()
