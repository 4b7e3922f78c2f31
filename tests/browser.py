"""Open a notebook in JupyterLab in Chromium, run all its cells, and print as JSON what is to be seen.

``python browser.py URL``, a process of its own: the browser's driver brings an event loop and threads, which
a test under the leak check should not have.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# As root there is no sandbox; the rest keeps it quick, and away from the network.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
PATIENCE = 60_000  # milliseconds for whatever we wait for

LOOK = """() => ({
    outputs: [...document.querySelectorAll('.jp-OutputArea-output')].map(one => one.textContent),
    scripts: window.mcRan || [],
    address: location.href,
})"""
BUSY = "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(one => one.textContent.includes('*'))"


def run_all(page: Any, awaited: str) -> None:
    """Run all cells; again if the kernel was not yet listening."""
    for _ in range(5):
        page.get_by_text("Run", exact=True).first.click()
        page.get_by_text("Run All Cells", exact=True).first.click()
        with suppress(Exception):
            page.wait_for_selector(awaited, timeout=8_000)
            return
    raise SystemExit("the cells do not run")


def main(url: str, last: str) -> None:
    """Run the notebook at ``url`` until ``last`` is an output; then click what waits to be clicked."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 2000})
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.get_by_text("Container Lab | Idle").wait_for()
        run_all(page, f".jp-OutputArea-output:has-text({json.dumps(last)})")
        page.wait_for_function(BUSY)
        for link in page.query_selector_all("a.click-me"):
            link.click()
        page.wait_for_timeout(1500)  # for what a script might do now
        print(json.dumps(page.evaluate(LOOK)))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
