"""Draw docs/quickstart.png: the first curves of runs/quickstart.html, as Chromium shows them.

make quickstart browser && .venv/bin/python docs/picture.py
"""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

PAGE = Path("runs/quickstart.html").resolve()
PICTURE = Path(__file__).with_name("quickstart.png")


def main() -> None:
    """Take the picture."""
    browser = shutil.which("chromium")
    if browser is None or not PAGE.is_file():
        raise SystemExit("this needs chromium (make browser) and runs/quickstart.html (make quickstart)")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1100, "height": 900}, device_scale_factor=1.5)
        page.goto(PAGE.as_uri())
        figure = page.locator("#curves figure").first
        figure.locator(".main-svg").first.wait_for(timeout=60_000)
        figure.screenshot(path=PICTURE)
        chromium.close()


if __name__ == "__main__":
    main()
