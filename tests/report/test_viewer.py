"""The viewer as a user has it: in a browser, from a file, offline."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from crlm_jax.measures.view import CaseView, Layer, Mark
from crlm_jax.report import viewer
from tests import browser

chromium = browser.chromium
open_page = browser.open_page
HOSTILE = "<img src=x onerror=alert(1)></script><!--"
PREDICTION = (230, 159, 0)
REFERENCE = (86, 180, 233)


def make_case(title="case a", order=0.5, shape=(12, 60, 80), spacing=(5.0, 1.5, 1.5), **changes):
    """Slice z is grey z·8; a reference square on every slice, a prediction on slices 4 to 6."""
    grey = np.broadcast_to((np.arange(shape[0]) * 8).astype(np.uint8)[:, None, None], shape)
    reference = np.zeros(shape, bool)
    reference[:, 10:20, 10:30] = True
    prediction, probability = np.zeros(shape, bool), np.zeros(shape, np.uint8)
    prediction[4:7, 30:40, 50:70] = True
    probability[:, :, 40:] = 200
    signed = np.zeros(shape, np.int8)
    signed[:, 45:] = -127
    values = {
        "title": title,
        "facts": (("DSC", f"{order:.2f}"), ("HD95", "12.3 mm")),
        "grey": grey.copy(),
        "spacing": spacing,
        "window": (0.0, 255.0),
        "unit": "HU",
        "layers": (
            Layer("reference", "reference", reference),
            Layer("prediction", "prediction", prediction),
            Layer("probability", "map", probability, shown=False),
            Layer("attribution", "signed", signed, shown=False, note="It <adds> up."),
        ),
        "marks": (
            Mark("reference 1: 23.4 mm", "reference", 2, 14.5, 19.5),
            Mark("prediction 1: 20.0 mm", "prediction", 5, 34.5, 59.5),
        ),
        "first_slice": 3,
        "order": order,
    }
    return CaseView(**values | changes)


@pytest.fixture
def show(open_page, tmp_path):
    """Opens a page with these cases and waits for the first picture."""

    def show(*cases, **window):
        path = tmp_path / "report.html"
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><body>'
        path.write_text(head + str(viewer.render(cases)), encoding="utf-8")
        page = open_page(path, **window)
        if cases:
            page.wait_for_selector(".viewer canvas[data-painted]")
        return page

    return show


def colour(page, row, column, shape=(60, 80), pixel=(1.5, 1.5)):
    """RGB on the canvas at a place in voxels, the whole slice being in view."""
    return page.evaluate(
        """([y, x, tall, wide]) => {
          const canvas = document.querySelector('.viewer canvas');
          const scale = Math.min(canvas.width / wide, canvas.height / tall);
          const px = Math.floor(canvas.width / 2 + (x - wide / 2) * scale);
          const py = Math.floor(canvas.height / 2 + (y - tall / 2) * scale);
          return [...canvas.getContext('2d').getImageData(px, py, 1, 1).data].slice(0, 3);
        }""",
        [row * pixel[0], column * pixel[1], shape[0] * pixel[0], shape[1] * pixel[1]],
    )


def until(get, wanted, tolerance=3, seconds=5):
    """Waits until `get()` is near `wanted`: pictures come a frame after the act."""
    end = time.monotonic() + seconds
    while True:
        got = get()
        if np.abs(np.subtract(got, wanted)).max() <= tolerance:
            return
        assert time.monotonic() < end, f"{got}, not {wanted}"
        time.sleep(0.02)


def grey_is(page, value):
    until(lambda: colour(page, 50, 5), [value] * 3)


def slice_text(page):
    return page.locator(".v-where").text_content()


def painted(page):
    return int(page.locator(".viewer canvas").get_attribute("data-painted"))


def picture(page):
    """A fingerprint of the whole canvas, after what was asked for has been drawn."""
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => setTimeout(r, 60)))")
    return page.evaluate("() => document.querySelector('.viewer canvas').toDataURL()")


def drag(page, by, button="left", key=None):
    box = page.locator(".viewer canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    if key:
        page.keyboard.down(key)
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    page.mouse.move(x + by[0], y + by[1], steps=4)
    page.mouse.up(button=button)
    if key:
        page.keyboard.up(key)


def test_slider_wheel_and_keys_move_the_slice(show):
    page = show(make_case())
    grey_is(page, 3 * 8)
    assert slice_text(page) == "Slice 4 of 12, 15.0 mm from the first"
    page.locator(".v-slice").fill("10")
    grey_is(page, 9 * 8)
    page.locator(".viewer canvas").hover()
    page.mouse.wheel(0, 100)
    grey_is(page, 10 * 8)
    page.mouse.wheel(0, -100)
    grey_is(page, 9 * 8)
    page.locator(".viewer canvas").focus()
    for key, z in (
        ("Home", 0), ("ArrowUp", 0), ("ArrowDown", 1), ("ArrowRight", 2), ("ArrowLeft", 1),
        ("PageDown", 6), ("PageUp", 1), ("End", 11), ("ArrowDown", 11),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert slice_text(page).startswith(f"Slice {z + 1} of 12")
        grey_is(page, z * 8)
    assert page.locator(".v-slice").input_value() == "12"
    assert "Slice 12 of 12" in page.locator(".viewer canvas").get_attribute("aria-label")


def test_outlines_and_maps_are_where_the_masks_are_and_switch_off(show):
    page = show(make_case(first_slice=5))
    until(lambda: colour(page, 15, 10), REFERENCE, 30)
    until(lambda: colour(page, 15, 20), [40] * 3)  # inside nothing is painted
    both = picture(page)
    page.locator(".viewer canvas").focus()
    page.keyboard.press("1")
    until(lambda: colour(page, 15, 10), [40] * 3)
    page.get_by_label(re.compile("^prediction")).uncheck()
    neither = picture(page)
    page.keyboard.press("2")
    assert picture(page) not in (both, neither)
    page.keyboard.press("3")  # viridis at 200/255, opaque by 0.6 · 200/255
    viridis = viewer._colours()["map"]
    low, high = np.array(viridis[12]), np.array(viridis[13])
    wanted = low + (200 / 255 * 16 - 12) * (high - low)
    alpha = 0.6 * 200 / 255
    until(lambda: colour(page, 25, 60), 40 + alpha * (wanted - 40), 5)
    page.get_by_label("Opacity of probability").fill("0")
    until(lambda: colour(page, 25, 60), [40] * 3)
    page.get_by_label(re.compile("^attribution")).check()
    until(lambda: colour(page, 52, 20), 40 + 0.6 * (np.array([0, 114, 178]) - 40), 5)


def test_a_layers_note_stands_under_the_picture(show):
    page = show(make_case(), make_case(title="case b", layers=make_case().layers[:3]))
    assert page.locator(".v-note").text_content() == "It <adds> up."
    page.locator(".v-next").click()
    assert page.locator(".v-note").text_content() == ""


def test_the_prediction_is_dashed_and_the_reference_is_not(show):
    page = show(make_case(first_slice=5))

    def shares(row, columns, wanted):
        """How much of a horizontal line has its colour, the best of the rows around."""
        lines = [
            [np.abs(np.subtract(colour(page, y, x), wanted)).max() < 60 for x in columns]
            for y in (row - 0.1, row, row + 0.1)
        ]
        return max(np.mean(line) for line in lines)

    until(lambda: colour(page, 15, 10), REFERENCE, 30)
    assert shares(10, np.linspace(12, 28, 40), REFERENCE) > 0.95
    assert 0.4 < shares(30, np.linspace(52, 68, 40), PREDICTION) < 0.85


def test_width_and_level_change_the_grey(show):
    page = show(make_case(first_slice=10, layers=(), marks=(), window=(-100.0, 300.0)))
    grey_is(page, 80)
    value = -100 + 80 / 255 * 400
    page.get_by_label("Window width, number").fill("100")
    page.get_by_label("Window width, number").press("Enter")
    page.get_by_label("Window level", exact=True).fill("50")
    wanted = 255 * ((value - 50) / 100 + 0.5)
    grey_is(page, wanted)
    page.get_by_role("button", name="Reset window").click()
    grey_is(page, 80)
    for button, key in (("right", None), ("middle", None), ("left", "Shift")):
        drag(page, (-60, 0), button, key)
        narrow = float(page.get_by_label("Window width, number").input_value())
        assert narrow < 400, button
        grey_is(page, 255 * ((value - 100) / narrow + 0.5))
        page.keyboard.press("r")
        grey_is(page, 80)
    drag(page, (0, 40), "right")
    assert float(page.get_by_label("Window level, number").input_value()) > 100
    page.locator(".viewer canvas").hover(position={"x": 200, "y": 200})
    assert re.search(r"row \d+, column \d+ · ≈ 25\.\d HU", page.locator(".v-value").text_content())


def test_a_lesion_of_the_list_is_jumped_to_flashed_and_fitted(show):
    page = show(make_case())
    page.get_by_role("button", name=re.compile("prediction 1: 20.0 mm")).click()
    assert slice_text(page).startswith("Slice 6 of 12")
    before = painted(page)
    page.wait_for_function(f"document.querySelector('canvas').dataset.painted > {before + 3}")
    white = """() => {
      const c = document.querySelector('.viewer canvas');
      const x = c.width / 2, s = Math.min(c.width / 120, c.height / 90);
      const [cx, cy] = [x + (60 * 1.5 - 60) * s, c.height / 2 + (35 * 1.5 - 45) * s];
      const d = c.getContext('2d').getImageData(cx - 40, cy - 40, 80, 80).data;
      return d.filter((v, i) => i % 4 < 3 && v > 250).length > 100;
    }"""
    assert page.evaluate(white)  # the ring
    page.wait_for_timeout(1700)
    assert not page.evaluate(white)
    assert page.locator(".v-marks [aria-pressed=true]").count() == 1
    page.get_by_role("button", name="Fit lesion").click()
    until(lambda: float(page.locator(".v-zoom").text_content()[:-1]), 2.0, 0.3)
    fitted = picture(page)
    drag(page, (80, 0))
    assert picture(page) != fitted
    page.locator(".viewer canvas").focus()
    page.keyboard.press("+")
    assert float(page.locator(".v-zoom").text_content()[:-1]) > 2.3
    page.keyboard.press("0")
    assert page.locator(".v-zoom").text_content() == "1.0×"
    grey_is(page, 40)


def test_cases_come_worst_first_and_are_walked_and_sorted(show):
    cases = [
        make_case("middle", 0.5), make_case("best", 0.9), make_case("none", float("nan")),
        make_case("worst", 0.1, facts=(("DSC", "0.10"), ("HD95", "120.0 mm"))),
    ]  # fmt: skip
    page = show(*cases)
    names = page.locator(".v-cases tbody th")
    title = page.locator(".v-title")
    assert names.all_text_contents() == ["worst", "middle", "best", "none"]
    assert title.text_content() == "worst"
    assert page.get_by_role("button", name="Previous case").is_disabled()
    page.get_by_role("button", name="Next case").click()
    assert title.text_content() == "middle"
    page.keyboard.press("n")
    assert title.text_content() == "best"
    page.keyboard.press("p")
    assert title.text_content() == "middle"
    page.get_by_role("button", name="HD95").click()
    page.get_by_role("button", name="HD95").click()
    assert names.all_text_contents()[0] == "worst"
    assert page.locator("[aria-sort=descending]").text_content() == "HD95"
    page.get_by_role("button", name="case", exact=True).click()
    assert names.all_text_contents() == ["best", "middle", "none", "worst"]
    assert page.locator(".v-count").text_content() == "case 2 of 4"
    page.get_by_role("button", name="Worst first").click()
    assert names.all_text_contents() == ["worst", "middle", "best", "none"]
    page.get_by_role("button", name="none").press("Enter")
    assert title.text_content() == "none"
    assert page.locator("tr[aria-current=true]").count() == 1


def test_what_comes_from_data_is_text(show):
    page = show(
        make_case(
            HOSTILE,
            facts=((HOSTILE, HOSTILE),),
            unit=HOSTILE,
            layers=(Layer(HOSTILE, "reference", np.ones((12, 60, 80), bool)),),
            marks=(Mark(HOSTILE, HOSTILE, 0, 0, 0),),
        )
    )
    for place in (".v-title", ".v-facts dt", ".v-facts dd", ".v-layers span", ".v-marks span",
                  ".v-unit", ".v-cases tbody th", ".v-cases td"):  # fmt: skip
        assert page.locator(place).first.text_content() == HOSTILE, place
    page.locator(".viewer canvas").hover()
    assert page.locator(".viewer img").count() == 0
    assert page.locator(".viewer canvas").get_attribute("aria-label").startswith(HOSTILE)
    picture(page)


def test_every_control_has_a_name_and_the_focus_is_seen(show):
    page = show(make_case())
    unnamed = page.evaluate("""() => [...document.querySelectorAll('.viewer :is(button, input)')]
      .filter(e => !(e.labels && e.labels.length) && !e.ariaLabel && !e.textContent.trim())
      .map(e => e.outerHTML)""")
    assert unnamed == []
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        name = "() => document.activeElement.className || document.activeElement.tagName"
        seen.add(page.evaluate(name))
        if page.evaluate("() => document.activeElement.matches('.viewer *')"):
            outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
    assert {"CANVAS", "v-slice", "v-width", "v-level", "v-lesion", "v-worst"} <= seen
    page.get_by_label("Window level, number").focus()
    page.keyboard.press("1")  # a digit in a field is a digit
    assert page.get_by_label(re.compile("^reference")).is_checked()


def test_print_has_the_picture_and_tables_and_no_control(show):
    page = show(make_case(), make_case("b", 0.9))
    page.emulate_media(media="print")
    assert page.locator(".viewer input:visible").count() == 0
    for name in ("Previous case", "Next case", "Reset window", "Fit lesion", "Worst first"):
        assert not page.get_by_role("button", name=name).is_visible(), name
    for kept in ("canvas", ".v-facts", ".v-marks", ".v-cases tbody", ".v-where"):
        assert page.locator(f".viewer {kept}").is_visible(), kept
    assert page.locator(".v-layers .v-row:visible").all_text_contents() == [
        "reference1", "prediction2"
    ]  # fmt: skip
    assert len(page.pdf()) > 5000


@pytest.mark.parametrize("spacing", [(5.0, 1.0, 2.0), (5.0, 2.0, 0.5)])
def test_anisotropic_pixels_keep_their_shape(show, spacing):
    shape = (2, 40, 40)
    grey = np.full(shape, 200, np.uint8)
    page = show(
        make_case(shape=shape, spacing=spacing, grey=grey, layers=(), marks=(), first_slice=0)
    )
    extent = """() => {  // along a row and a column that no label crosses
      const c = document.querySelector('.viewer canvas');
      const count = (...box) => c.getContext('2d').getImageData(...box).data
        .filter((v, i) => i % 4 === 0 && Math.abs(v - 200) < 3).length;
      return count(0, c.height * 0.4, c.width, 1) / count(c.width / 2, 0, 1, c.height);
    }"""
    until(lambda: page.evaluate(extent), spacing[2] / spacing[1], 0.03)


def test_a_page_without_cases_and_a_case_of_one_plain_slice(show):
    assert "There is no case to show." in show().content()
    one = make_case(shape=(1, 50, 70), layers=(), marks=(), first_slice=0, facts=())
    page = show(one)
    assert slice_text(page) == "Slice 1 of 1, 0.0 mm from the first"
    assert page.locator(".v-slice").is_disabled()
    assert page.locator(".v-marks").text_content() == "none listed"
    page.locator(".viewer canvas").focus()
    for key in ("ArrowDown", "End", "f", "n", "p", "1", "+"):
        page.keyboard.press(key)
    picture(page)
    assert slice_text(page).startswith("Slice 1 of 1")


def test_a_narrow_window_has_no_sideways_scroll(show):
    page = show(make_case("a long title " * 12), width=420, height=800)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 420


@pytest.mark.slow
def test_forty_five_cases_stay_small_and_open_fast(open_page, tmp_path):
    shape = (24, 288, 288)
    grain = np.random.default_rng(0).standard_normal(shape, np.float32)
    grain = gaussian_filter(grain, (0, 0.6, 0.6))

    def noisy(seed: int) -> CaseView:
        """Noise on slow shading, with all four layers, as large as a case of the phantom."""
        rng = np.random.default_rng(seed)
        shade = gaussian_filter(rng.normal(size=shape[1:]), 20)
        noise = np.roll(grain, (seed, 7 * seed), axis=(0, 1))
        grey = 100 + 40 * shade / shade.std() + 10 * noise / noise.std()
        probability = np.clip(128 + 90 * shade / shade.std(), 0, 255).astype(np.uint8)
        attribution = gaussian_filter(rng.normal(size=shape[1:]), 3)
        attribution = (127 * attribution / np.abs(attribution).max()).astype(np.int8)
        masks = np.broadcast_to(probability > 200, shape)
        layers = (
            Layer("reference", "reference", masks),
            Layer("prediction", "prediction", np.roll(masks, 3, axis=2)),
            Layer("probability", "map", np.broadcast_to(probability, shape)),
            Layer("attribution", "signed", np.broadcast_to(attribution, shape)),
        )
        grey = np.clip(grey, 0, 255).astype(np.uint8)
        return make_case(str(seed), seed, shape, grey=grey, layers=layers)

    path = tmp_path / "report.html"
    text = viewer.render(noisy(seed) for seed in range(45))
    path.write_text(f'<!doctype html><meta charset="utf-8"><body>{text}', encoding="utf-8")
    size = path.stat().st_size / 1e6
    assert size < 60, f"{size:.0f} MB"
    start = time.monotonic()
    page = open_page(path, until="commit")
    page.wait_for_selector(".viewer canvas[data-painted]")
    seconds = time.monotonic() - start
    page.wait_for_load_state("load")
    whole = time.monotonic() - start
    print(f"45 cases: {size:.1f} MB, first picture after {seconds:.2f} s, all read {whole:.2f} s")
    page.locator(".v-cases tbody th").last.click()
    assert page.locator(".v-count").text_content() == "case 45 of 45"
    assert page.locator(".v-cases tbody tr").count() == 45
    assert seconds < 3


def test_a_case_is_saved_whole_and_comes_back(tmp_path):
    case = make_case(HOSTILE, float("nan"), window=(-160.0, 240.0))
    case.save(tmp_path / "case.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["case.npz"]
    back = CaseView.load(tmp_path / "case.npz")
    for name in ("title", "facts", "spacing", "window", "unit", "marks", "first_slice"):
        assert getattr(back, name) == getattr(case, name)
    assert np.isnan(back.order)
    np.testing.assert_array_equal(back.grey, case.grey)
    for mine, other in zip(case.layers, back.layers, strict=True):
        assert (mine.name, mine.kind, mine.shown) == (other.name, other.kind, other.shown)
        np.testing.assert_array_equal(mine.voxels, other.voxels)
        assert mine.voxels.dtype == other.voxels.dtype


def test_wrong_cases_are_refused_with_a_reason():
    with pytest.raises(ValueError, match="kind 'mask' is none of"):
        Layer("x", "mask", np.zeros((1, 2, 2), bool))
    with pytest.raises(ValueError, match="a map is uint8"):
        Layer("x", "map", np.zeros((1, 2, 2), np.float32))
    for changes, words in (
        ({"first_slice": 12}, "no slice 12 in 12"),
        ({"grey": np.zeros((12, 60, 81), np.uint8)}, "layer 'reference' is"),
        ({"grey": np.zeros((60, 80), np.uint8)}, r"not \(Z, H, W\)"),
        ({"window": (1.0, 1.0)}, "is empty"),
        ({"layers": ()}, "no layer 'reference'"),
    ):
        with pytest.raises(ValueError, match=words):
            make_case(**changes)


def test_the_fragment_names_no_address():
    html = re.sub(r'class="v-pixels">.*?</script>', "", str(viewer.render([make_case()])))
    assert not re.search(r"https?:|//[\w.]+\.\w|@import|url\(|src=|href=", html)


def test_the_files_read_like_the_package():
    for name in viewer._SCRIPTS:
        source = (Path(viewer.__file__).parent / "templates" / name).read_text(encoding="utf-8")
        assert "innerHTML" not in source
        assert "insertAdjacentHTML" not in source
