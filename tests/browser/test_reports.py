"""The reports in a real browser without a screen: `make page-check`."""

import os
import shutil

import pytest

from tests.commands import prune_arguments

pytestmark = pytest.mark.browser
SIZES = {"wide": (1400, 900), "narrow": (360, 740)}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no Chromium was found: install it, or name it in CHROMIUM"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def reports(workshop, tmp_path_factory):
    """A comparison's page and one run's, written by the command."""
    from pruner import cli
    from tests.commands import command

    out, patch = tmp_path_factory.mktemp("reports") / "c", pytest.MonkeyPatch()
    options = prune_arguments(workshop, out, epochs=2, member="digits_resnet=90%")
    methods = ["--method", "thompson", "--method", "uniform", "--depth"]
    assert command(patch, cli.main, "compare", *options, *methods) == 0
    patch.undo()
    return {"comparison": out / "report.html", "run": out / "lap_1.2x_0" / "report.html"}


@pytest.mark.parametrize("which", ["comparison", "run"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_readable_and_asks_for_nothing_outside(
    browser, reports, tmp_path, which, size, scheme
):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(reports[which].as_uri())
    pictures = os.environ.get("PICTURES", str(tmp_path))
    page.screenshot(path=f"{pictures}/{which}_{size}_{scheme}.png", full_page=True)

    assert asked == [reports[which].as_uri()]
    assert said == []
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0  # wide tables scroll by themselves
    for svg in page.query_selector_all("svg"):
        box = svg.bounding_box()
        assert 0 < box["width"] <= width
    ink, paper = page.evaluate(
        """() => {
          const brightness = c => c.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765;
          const text = getComputedStyle(document.body).color;
          const canvas = document.createElement('div');
          canvas.style.backgroundColor = 'Canvas';
          document.body.append(canvas);
          return [brightness(text), brightness(getComputedStyle(canvas).backgroundColor)];
        }"""
    )
    assert abs(ink - paper) > 0.6
    assert (paper < 0.5) == (scheme == "dark")
    label = page.query_selector("svg text")
    colour = page.evaluate("e => getComputedStyle(e).fill", label)
    assert colour == page.evaluate("() => getComputedStyle(document.body).color")
    page.close()


def test_a_comparison_leads_to_every_runs_report(browser, reports):
    page = browser.new_page()
    page.goto(reports["comparison"].as_uri())
    page.click("text=thompson, 1.2× asked, seed 0")
    assert page.url == reports["run"].as_uri()
    assert page.inner_text("h1")
    page.close()
