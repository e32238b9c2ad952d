"""The whole report of a run and of two, opened in Chromium from disk."""

import pytest

from crlm_jax.report.page import write_report
from tests import browser
from tests.finished_runs import make_run

HOSTILE = '<img src=x onerror="alert(1)"></script><b>p'
SIZES = {"a": (20, 12), HOSTILE: (16, 16), "c": (12, 0)}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The reports are made first: see `tests/browser.py`."""
    folder = tmp_path_factory.mktemp("reports")
    runs = [make_run(folder / name, SIZES, found) for name, found in (("half", 0.5), ("all", 1.0))]
    return {
        "one": write_report(runs[:1], runs[0] / "report.html"),
        "two": write_report(runs, folder / "two.html"),
    }


chromium = browser.chromium
open_page = browser.open_page


def painted(page):
    page.wait_for_selector(".viewer canvas[data-painted]")
    return page


def picture(page) -> str:
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => setTimeout(r, 60)))")
    return page.evaluate("() => document.querySelector('.viewer canvas').toDataURL()")


def test_the_slider_moves_the_slice_and_layers_switch(pages, open_page):
    page = painted(open_page(pages["one"]))
    slider = page.locator(".viewer .v-slice")
    assert slider.input_value() == "2"  # the slice with the lesion
    before = picture(page)
    slider.focus()
    page.keyboard.press("End")
    assert slider.input_value() == "3"
    assert picture(page) != before
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "2"
    before = picture(page)
    page.locator(".viewer .v-layers input[type=checkbox]").nth(1).uncheck()
    assert picture(page) != before


def test_a_hostile_patient_is_text_everywhere(pages, open_page):
    page = painted(open_page(pages["one"]))
    assert page.locator("img[src=x]").count() == 0
    assert page.get_by_text(HOSTILE, exact=False).count() >= 2
    assert page.locator(".viewer .v-cases").get_by_text(f"{HOSTILE} · pre_dwi").count() == 1


def test_all_sections_and_every_case_are_there(pages, open_page):
    page = painted(open_page(pages["one"]))
    for heading in ("Results on the test patients", "Borders and lesions", "Size and response",
                    "Test cases", "The run"):  # fmt: skip
        assert page.get_by_role("heading", name=heading, exact=True).count() == 1
    assert page.locator(".viewer .v-cases tbody tr").count() == 6
    page.get_by_role("link", name="Cases", exact=True).click()
    assert page.locator(".viewer canvas").is_visible()


def test_two_runs_stand_side_by_side(pages, open_page):
    page = painted(open_page(pages["two"]))
    assert page.get_by_text("Compared with half, patient by patient").count() == 1
    assert page.locator(".viewer .v-cases tbody tr").count() == 12
    assert page.locator(".viewer .v-cases").get_by_text("all · a · pre_dwi").count() == 1


@pytest.mark.parametrize("width", [420, 1280])
def test_no_page_scrolls_sideways(pages, open_page, width):
    page = painted(open_page(pages["one"], width=width, height=800))
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
