"""The report in a real browser: no error, nothing wider than a phone, every picture there."""

import json
import re
import shutil
import subprocess

import pytest
from helpers.reports import write_results

from mend.reporting.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium: apt-get install chromium (or the like)"
)
PHONE = 390

# A headless window cannot be as narrow as a phone, a frame within it can. A file may not look into
# another, so the page tells the frame's owner.
PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message || event.target.src)), true);
addEventListener("load", () => parent.postMessage(JSON.stringify({
  errors,
  width: innerWidth,
  scroll: document.documentElement.scrollWidth,
  pictures: [...document.images].map(image => image.complete && image.naturalWidth),
  wide: [...document.querySelectorAll("main > *, section > *")]
    .filter(part => part.getBoundingClientRect().right > innerWidth + 1)
    .map(part => part.outerHTML.slice(0, 200)),
}), "*"));
</script>"""
OWNER = """<!doctype html><body><script>
addEventListener("message", event => {
  document.body.textContent = "told:" + event.data + ":told";
});
</script><iframe src="page.html" style="width: {}px; height: 800px; border: 0"></iframe></body>"""


def look(folder, page, width):
    """What the page, opened at a width, says of itself; and Chromium's log."""
    (folder / "page.html").write_text(page.replace("<head>", "<head>" + PROBE), encoding="utf-8")
    (folder / "owner.html").write_text(OWNER.replace("{}", str(width)), encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--window-size=1300,900", f"--user-data-dir={folder}/profile"),
            *("--enable-logging=stderr", "--virtual-time-budget=20000"),
            (folder / "owner.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search("told:(.*):told", done.stdout)
    assert found, done.stderr[-2000:]
    text = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_report(write_results(folder), folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [PHONE, 1200])
def test_the_page_opens_whole_and_fits(page, tmp_path, width):
    seen, console = look(tmp_path, page, width)
    assert seen["width"] == width
    assert seen["scroll"] <= width, seen["wide"]
    assert seen["errors"] == []
    assert console == []
    assert len(seen["pictures"]) == 1  # figure 3
    assert all(seen["pictures"])


def test_the_probe_sees_what_is_wrong(tmp_path):
    bad = """<!doctype html><html><head><meta charset="utf-8"></head><body><main>
    <p style="width: 900px">wide</p><img src="data:image/png;base64,AAAA">
    <script>console.log("said"); undefinedFunction()</script></main></body></html>"""
    seen, console = look(tmp_path, bad, PHONE)
    assert seen["scroll"] > PHONE
    assert seen["pictures"] == [0]
    assert any("undefinedFunction" in error for error in seen["errors"])
    assert any("said" in line for line in console)
