"""The pages in headless Chromium: `make browser`. Screenshots are left in the directory BROWSER_SHOTS, if it is set."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep
from marin_sft.execution.step import unversioned
from marin_sft.execution.stores import open_store
from marin_sft.run.report.command import report_contents, write_report
from marin_sft.run.report.server import Server
from tests.run.report.test_contents import WaitConfig, wait

pytestmark = pytest.mark.torture
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LINES = """Math.max(...[...document.querySelectorAll("#steps td .link")].map((link) => {
    const range = document.createRange();
    range.selectNodeContents(link);
    return new Set([...range.getClientRects()].map((part) => part.top)).size;
}))"""
SIZES = [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: `make browser`")
    if CHROMIUM is None:
        pytest.skip("needs chromium on the path")
    with playwright.sync_playwright() as runs:
        yield runs.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"])


@pytest.fixture
def opened(browser):
    """Opens a page at a width and in a theme; `complaints`: what its console said, and what it loaded."""

    def open_page(url, width=1440, theme="light", shot=None):
        page = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=theme).new_page()
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        origin = url.split("?")[0].rstrip("/")
        ours = lambda address: address.startswith((origin, "data:"))  # noqa: E731
        page.on("request", lambda request: ours(request.url) or page.complaints.append(f"loads {request.url}"))
        page.goto(url)
        page.wait_for_selector("#steps")
        if shot and os.environ.get("BROWSER_SHOTS"):
            page.wait_for_selector("canvas")
            page.screenshot(path=f"{os.environ['BROWSER_SHOTS']}/{shot}_{width}_{theme}.png", full_page=True)
        return page

    return open_page


@pytest.fixture(scope="module")
def report(launched):
    path = launched.folder / "page.html"
    write_report(report_contents(launched.store, []), str(path))
    return path.as_uri()


@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_it_fits_and_nothing_breaks_out(opened, report, width, theme):
    page = opened(report, width, theme, shot="report")
    page.wait_for_selector("canvas")
    assert page.complaints == []
    assert page.title() == "__main__", "a text that became a script would have changed it"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("main img, main script").count() == 0
    assert page.locator(".node").count() == 8 and page.locator("canvas").count() == 4


def test_trained_tokens_are_marked(opened, report):
    page = opened(report)
    marked = page.locator(".sample").last.locator(".t.on")
    assert "</script>" in "".join(marked.all_inner_texts())


@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_findings_in_rows_unfold(opened, linted, tmp_path, width, theme):
    write_report(linted, str(tmp_path / "page.html"))
    page = opened((tmp_path / "page.html").as_uri(), width, theme)
    samples = page.locator("#findings .sample")
    assert not samples.first.is_visible()
    page.locator("#findings summary", has_text="empty_answers").first.click()
    shown = samples.filter(visible=True)
    assert shown.count() == 1 and "<img src=x" in shown.inner_text() and "rows.jsonl:61" in shown.inner_text()
    for error in (page.locator("#about .bad .error"), page.locator("#steps .why", has_text="DataError")):
        assert "\n  rows: duplicate_prompts " in error.inner_text(), "all lines of the message"
    assert page.locator("#findings .toomany").inner_text().startswith("40")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.complaints == [] and page.title() != "broken"
    if os.environ.get("BROWSER_SHOTS"):
        page.locator("#findings").screenshot(path=f"{os.environ['BROWSER_SHOTS']}/findings_{width}_{theme}.png")


def test_a_step_opens_and_closes_from_the_keyboard(opened, report):
    page = opened(report)
    node = page.get_by_role("button", name="mixtures/mine: ran")
    node.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog h2").inner_text() == "mixtures/mine"
    assert "seq_len" in page.locator("dialog").inner_text()
    page.locator("dialog").get_by_role("button", name="tokenized/mine").click()
    assert page.locator("dialog h2").inner_text() == "tokenized/mine"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_a_table_is_made_when_it_is_opened_or_printed(opened, report):
    for show in (lambda page: page.get_by_text("These times as a table").click(), lambda page: page.pdf()):
        page = opened(report)
        rows = page.locator("#time td")
        assert rows.count() == 0
        show(page)
        rows.first.wait_for(state="attached")
        assert "mixtures/mine" in "".join(rows.all_inner_texts() + rows.all_text_contents())
        assert page.complaints == []


def test_charts_smooth_change_their_axis_and_hide_runs(opened, report):
    page = opened(report)
    first = page.locator(".chart").first
    assert "step 10" in first.locator("output").inner_text()
    page.locator("#training select").select_option("tokens")
    assert "tokens 1,000" in page.locator(".chart").first.locator("output").inner_text()
    assert page.locator(".chart").first.locator("output i").count() == 2
    page.locator(".run").first.click()
    assert page.locator(".chart").first.locator("output i").count() == 1
    page.locator("#training input[type=range]").fill("0.9")
    page.locator(".chart .plot").first.focus()
    page.keyboard.press("ArrowLeft")
    assert "tokens 900" in page.locator(".chart").first.locator("output").inner_text()
    assert page.complaints == []


@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_a_sweep_is_drawn_with_what_failed(opened, swept_launch, tmp_path, width, theme):
    write_report(swept_launch(), str(tmp_path / "sweep.html"))
    page = opened((tmp_path / "sweep.html").as_uri(), width, theme, shot="sweep")
    assert page.complaints == [] and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".scatter .dot").count() == 3 and page.locator(".scatter .lost").count() == 1
    assert "4 points, 3 finished, 1 failed" in page.locator("#sweeps").inner_text()
    assert "lowest loss 0 lr=0.3, of 4 points" in " ".join(page.locator("#about .figures").inner_text().split())
    label = page.locator("#time .label", has_text="checkpoints/s/lr=0.3")
    label.evaluate("(it) => (it.style.width = '9ch')")
    left = "(it) => it.getBoundingClientRect().left"
    assert label.locator("bdi").evaluate(left) < label.evaluate(left), "a long name keeps its end"
    assert page.locator("#steps td .link").count() == 5 and page.evaluate(LINES) <= 3, "names break after slashes only"
    page.get_by_role("button", name="details of lr=0.4").click()
    assert page.locator("dialog h2").inner_text() == "checkpoints/s/lr=0.4"


def test_its_colours_can_be_chosen(opened, report):
    page = opened(report)
    background = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    light = background()
    switch = page.get_by_role("button", name="Colours")
    switch.click()
    assert background() == light
    switch.click()
    assert background() != light


def test_live_pages_follow_a_running_step(opened, tmp_path):
    prefix, flag = str(tmp_path / "store"), tmp_path / "flag"
    flag.touch()
    step = ExecutorStep("first", wait, WaitConfig("first", while_there=unversioned(str(flag))))
    thread = threading.Thread(target=Executor(ExecutorFlags(prefix=prefix, backend="inline")).run, args=([step],))
    thread.start()
    server = Server(open_store(prefix), 0)
    threading.Thread(target=server.serve_forever).start()
    try:
        while not Path(f"{flag}.begun").exists():
            time.sleep(0.01)
        page = opened(server.url)
        page.locator("#launches a").click()
        page.get_by_role("button", name="first: running").click()
        log = page.locator("dialog .log")
        log.wait_for()
        (path,) = Path(prefix).glob("first-*/1/.log")
        with path.open("a") as file:
            file.write("one more line\n")
        page.locator("dialog .log", has_text="one more line").wait_for()
        (metrics,) = Path(prefix).glob("first-*/1/metrics.jsonl")
        with metrics.open("a") as file:
            file.write(json.dumps({"step": 2, "loss": 0.25, "tokens": 20, "tokens_per_second": 5.0}) + "\n")
        page.keyboard.press("Escape")
        page.locator(".chart output", has_text="0.25").first.wait_for()
        assert page.complaints == []
    finally:
        flag.unlink()
        thread.join()
        server.shutdown()
        server.server_close()
    assert thread.is_alive() is False
