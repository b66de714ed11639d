"""The page in a real browser: Chromium, where the machine has one, on a server that the test starts."""

import os
import re
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from shutil import which

import pytest

from train.toys import environment

CHROMIUM = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE = 120_000  # milliseconds
gradio = pytest.importorskip("gradio", reason="needs the extra demo")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
Image = pytest.importorskip("PIL.Image", reason="needs the extra images")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


def heed() -> None:
    """Ctrl-C counts, also where the suite itself runs in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of the models of the package, on a free port of this machine."""
    command = [sys.executable, "-m", "flowmaps", "demo", "--port", "0", "--no-browser"]
    place = tmp_path_factory.mktemp("server")
    with (
        open(place / "err", "w") as err,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=err, text=True, cwd=place, env=environment(), preexec_fn=heed
        ) as server,
    ):
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, (place / "err").read_text()
            yield found[0]
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 0, "Ctrl-C ends the server, also after a browser was there"
        finally:
            server.kill()
    assert "Traceback" not in (place / "err").read_text()
    assert not list(place.glob("*flagged*")), "the page keeps no files"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as p:
        profile = str(tmp_path_factory.mktemp("profile"))
        context = p.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=QUIET, viewport={"width": 1280, "height": 1000}
        )
        context.set_default_timeout(PATIENCE)
        yield context
        context.close()


def keep(page, name: str, tmp_path: Path) -> None:
    """Keep a screenshot, in the folder that FLOWMAPS_ARTEFACTS names if it does."""
    folder = Path(os.environ.get("FLOWMAPS_ARTEFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    taken = Image.open(BytesIO(page.screenshot(full_page=True)))
    taken.quantize(128).save(folder / f"page-{name}.png", optimize=True)  # small enough for a page of the documentation
    assert (folder / f"page-{name}.png").stat().st_size > 10_000


def test_a_user_draws_a_scaffold(address, browser, tmp_path):
    """With the mouse and the keyboard: a part, a bond, another element; what cannot be is said, and nothing is lost."""
    page = browser.new_page()
    page.goto(address)
    page.get_by_text("8 molecules in 4 steps").wait_for()  # the first answer moves the page under a click
    box, drawing = page.get_by_label("Scaffold").first, page.locator(".fm-sketch:visible")

    def written(text: str) -> None:
        """Wait until the text is written and drawn: a click on a picture about to be replaced may be lost."""
        page.wait_for_function("([e, text]) => e.value === text", arg=[box.element_handle(), text])
        page.locator(f'.fm-sketch[data-drawn="{text}"]:visible').wait_for()

    drawing.get_by_role("button", name="oxirane").click()
    written("C1CO1")
    drawing.get_by_role("button", name="atom 1, C").click(force=True)
    written("CC1CO1")
    page.locator(".fm-tools:visible").get_by_text("O", exact=True).click()
    drawing.get_by_role("button", name="atom 1, C").press("Enter")
    written("OC1CO1")
    page.locator(".fm-tools:visible").get_by_text("erase", exact=True).click()
    drawing.get_by_role("button", name="atom 2, C").click(force=True)
    drawing.get_by_role("alert").wait_for()
    assert "in several parts" in drawing.get_by_role("alert").inner_text() and box.input_value() == "OC1CO1"
    page.get_by_role("button", name="Draw").first.click()
    page.get_by_text("around the scaffold").wait_for()
    assert page.locator(".fm-answer:visible .fm-cards").first.locator("svg").count() == 8
    keep(page, "sketch", tmp_path)
    page.close()


def test_a_user_asks_for_molecules_with_a_scaffold(address, browser, tmp_path):
    page, elsewhere, faults = browser.new_page(), [], []
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    page.get_by_text("8 molecules in 4 steps").wait_for()  # the first answer comes by itself
    shown = page.locator(".fm-answer:visible")
    assert shown.locator(".fm-row").count() == 4 and "ms" in shown.locator(".fm-row-name").first.inner_text()
    page.get_by_label("Scaffold").first.fill("C1CO1")
    page.locator(".fm-scaffold svg").wait_for()
    page.get_by_role("button", name="Draw").first.click()
    page.get_by_text("around the scaffold").wait_for()
    assert shown.locator(".fm-cards").first.locator("svg").count() == 8
    assert shown.locator("text=valid").count() >= 8
    with page.expect_download() as download:
        page.get_by_role("link", name="Download molecules.sdf").click()
    assert "$$$$" in Path(download.value.path()).read_text()
    keep(page, "molecules", tmp_path)

    page.get_by_label("Scaffold").first.fill("<b>nonsense</b>")
    page.get_by_role("button", name="Draw").first.click()
    alert = page.locator(".fm-answer [role=alert]:visible")
    alert.wait_for()
    assert "The scaffold '<b>nonsense</b>' cannot be used" in alert.inner_text()

    page.get_by_role("tab", name="Text", exact=True).click()
    page.get_by_text("4 texts of 64 tokens in 4 steps").wait_for()
    page.get_by_role("tab", name="Images", exact=True).click()
    page.get_by_text("10 images in 4 steps").wait_for()
    assert page.locator(".fm-images img:visible").count() == 10 + 4 * 10
    keep(page, "images", tmp_path)
    assert not faults
    assert not elsewhere, "the page asks no other server for anything"
    page.close()
