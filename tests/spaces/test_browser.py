"""The explorer and a metric's Space in a real browser: every tab and control, both widths and themes, many visitors.

Slow, and outside CI: it needs Playwright and a Chromium (`$CHROMIUM`, default /usr/bin/chromium). Screenshots to
look at go to `$SCREENSHOTS`, if that is set.
"""

import importlib.util
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest  # noqa: E402

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which(CHROMIUM), reason="no Chromium"),
]
SPACES = Path(__file__).parents[2] / "spaces"
SEEN = 120_000  # milliseconds until something must be there, on a machine with other work


@pytest.fixture(scope="module")
def url():
    """The explorer, launched."""
    from hf_repgeo.gradio_app.app import launch

    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("explorer_in_browser", SPACES / "explorer" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    launch(module.demo, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield module.demo.local_url
    module.demo.close()
    sys.path[:] = path


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page; at the end no script may have failed."""
    pages, errors = [], []

    def visit(query="", width=1280, theme="light"):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
        page.set_default_timeout(SEEN)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}?__theme={theme}&{query}")
        figure(page)
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert not errors


def figure(page):
    """The first figure that can be seen, once it is drawn."""
    found = page.locator(".js-plotly-plot:visible").first
    found.locator(".main-svg").first.wait_for()
    return found


def picture(page, name):
    if folder := os.environ.get("SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_first_screen_states_the_finding_before_any_click(visit, width, theme):
    page = visit(width=width, theme=theme)
    plot = figure(page)
    box = plot.bounding_box()
    assert box["y"] + box["height"] <= 800, "both curves on the first screen"
    assert page.get_by_text("of the variance of its tokens lies along one direction").is_visible()
    assert page.get_by_label("sinks off").is_visible()
    assert plot.get_attribute("role") == "img" and "SmolLM2" in plot.get_attribute("aria-label")
    names = plot.locator(".legendtext").all_text_contents()
    assert names == ["chance", "SmolLM2-135M", "all-MiniLM-L6-v2"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture(page, f"finding-{width}-{theme}")


def test_the_switch_takes_the_sinks_out_and_the_address_keeps_it(visit):
    page = visit()
    page.get_by_label("sinks off").check()
    page.get_by_text("Without its sinks").wait_for()
    page.wait_for_url("**sinks=off**")
    shared = visit(page.url.partition("?")[2])
    assert shared.get_by_text("Without its sinks").is_visible()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize(
    "tab, control",
    [("compare", "Compared with"), ("tokens", "Colour"), ("sentence", "Another sentence"), ("training", "Measure"),
     ("atlas", "Across")],
)  # fmt: skip
def test_every_tab_opens_filled_and_fits(visit, tab, control, width):
    page = visit(f"tab={tab}", width=width, theme="dark" if width == 400 else "light")
    page.get_by_label(control).first.wait_for()
    figure(page)
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture(page, f"{tab}-{width}")


@pytest.mark.parametrize(
    "query, said",
    [
        ("tab=compare&first=all-mpnet-base-v2&tokens=one_per_type", "all-mpnet-base-v2"),
        ("tab=tokens&layer=3&space=3&colour=cell", "Layer 3: 256 tokens"),
        ("tab=tokens&map=all-MiniLM-L6-v2&layer=2&method=tsne", "Layer 2: 256 tokens"),
        ("tab=sentence&edit=ablate&region=3", "Ablating region 3"),
        ("tab=training&measure=intrinsic_dimension&policy=one_per_type", "Intrinsic dimension, mean over layers"),
    ],
)
def test_a_shared_address_opens_as_it_was_left(visit, query, said):
    page = visit(query)
    page.get_by_text(said).first.wait_for()


def test_addresses_opened_at_once_are_all_answered_as_they_were_left(visit):
    query = "tab=sentence&edit=ablate&region=3"  # two controls of one view: an older answer must not come last
    for page in [visit(query) for _ in range(6)]:
        page.get_by_text("Ablating region 3").first.wait_for()
        assert not page.get_by_text("Ablating region 0").count()


FOCUSED = """() => {
  const e = document.activeElement, s = getComputedStyle(e);
  const kind = e.getAttribute('role') || e.type || e.tagName;
  return [kind, e.innerText || e.value, s.outlineStyle, parseFloat(s.outlineWidth)];
}"""


def pressed(page, times):
    """What the focus stands on after each press of Tab: kind, words, style and width of its outline."""
    found = []
    for _ in range(times):
        page.keyboard.press("Tab")
        found.append(page.evaluate(FOCUSED))
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_worked_with_the_keyboard_alone(visit, theme):
    page = visit(theme=theme)
    stops = pressed(page, 10)
    titles = ["Sinks", "Your model", "Compare", "Tokens", "Sentence", "Training", "Atlas", "About"]
    assert [(kind, words) for kind, words, *_ in stops] == [
        *(("tab", title) for title in titles), ("radio", "on"), ("radio", "off")
    ]  # fmt: skip
    assert all(style != "none" and width >= 2 for *_, style, width in stops), "where the focus is can be seen"
    page.keyboard.press("Enter")
    page.get_by_text("Without its sinks").wait_for()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    page.get_by_text("of the variance of its tokens lies along one direction").wait_for()
    picture(page, f"focus-{theme}")
    for _ in range(4):
        page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUSED)[1] == "Sentence"
    page.keyboard.press("Space")
    page.get_by_label("Another sentence").first.wait_for()


def test_a_model_is_measured_with_progress_and_without_one_the_page_says_so(visit):
    page = visit("tab=model&model=nobody/nothing".replace("tab=model&", ""))
    page.get_by_role("tab", name="Your model").click()
    page.get_by_role("button", name="Measure").first.click()
    page.locator(".toast-body").first.wait_for()
    assert "nobody/nothing" in page.locator(".toast-body").first.inner_text()
    page.get_by_role("button", name="Stop").click()  # and the earlier error message is gone
    page.locator(".toast-body").first.wait_for(state="detached")


def test_the_packaged_model_is_measured_and_joins_the_comparison(visit):
    page = visit()
    page.get_by_role("tab", name="Your model").click()
    page.get_by_role("button", name="Measure").first.click()
    page.get_by_text("anisotropy is highest in layer").wait_for()
    assert page.locator(".js-plotly-plot:visible").count() == 4
    picture(page, "model-1280")


def test_twenty_visitors_at_once_get_their_own_answers(url):
    from gradio_client import Client

    def ask(place):
        layer = place % 7
        words, *_ = Client(url, verbose=False).predict(
            "all-MiniLM-L6-v2", layer, "norm", 2, "pca", True, api_name="/tokens"
        )
        return words.startswith(f"Layer {layer}: 256 tokens")

    with ThreadPoolExecutor(20) as visitors:
        assert all(visitors.map(ask, range(20)))
