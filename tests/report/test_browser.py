"""The page in a real browser: drawn, interactive, and no wider than the screen."""

import json
import math
import shutil

import pytest
import torch
import yaml

from lumbre.report import report
from lumbre.report.attention import Maps
from lumbre.report.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<img src=x onerror=fail()>&<a href='http://localhost'>b</a>"
SCREENS = {"wide": (1440, 900), "narrow": (390, 844)}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; `make browser` installs it where it may"),
]


def rows(seed):
    for step in range(1, 2001):
        decay = math.exp(-step / 300)
        yield {
            "step": step,
            "tokens": 64 * step,
            "samples": 2 * step,
            "loss": 2 + seed + 5 * decay + math.sin(step) / 9,
            "loss/source/web": 2 + 5 * decay,
            "learning_rate": 1e-3 * decay,
            "grad_norm": 1 + decay,
            "tokens_per_second": 1000.0 + step % 7,
            "mfu": 0.4,
            "step_seconds": 0.5,
            "data_seconds": 0.001,
            "overhead_seconds": 0.002,
            "peak_memory_bytes": 2**30,
            "time": 1000.0 + step,
        }
        if step % 500 == 0:
            yield {"step": step, "eval/loss": 2 + 5 * decay, f"eval/{EVIL}": decay}
            yield {"step": step, "downstream/sst2/accuracy": 1 - decay}
            yield {"step": step, "samples": [{"prompt": EVIL, "text": f"{EVIL} at {step}"}]}
    yield {"step": 900, "event": "loss_spike", "message": EVIL}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("report"), pytest.MonkeyPatch()
    runs = [folder / "first", folder / EVIL.replace("/", "")]
    for seed, run in enumerate(runs):
        run.mkdir()
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(seed)))
        (run / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "a-long-key" * 9: {"b" * 99: seed}}))
    scores = [
        {"model": model, "seed": s, "accuracy": s / 4} for model in ("pretrained", EVIL) for s in (1, 2)
    ]
    (runs[0] / "results.json").write_text(json.dumps({"rows": scores, "summary": EVIL}))
    tokens = [*"abcde", EVIL]
    weights = torch.rand(12, len(tokens), len(tokens), generator=torch.Generator().manual_seed(1))
    maps = Maps("Self-attention", tokens, tokens, [(weights / weights.sum(-1, keepdim=True))] * 2)
    # A model of its own is another test's: here the page draws given weights.
    patch.setattr(report.attention, "maps_of", lambda run, text: ([maps], "cut"))
    out = write_report(runs, folder / "report.html", attention_text="a b c")
    patch.undo()
    return out


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=SCREENS)
def opened(request, browser, page):
    """The page on a screen, every figure once in view, and what it complained of or asked for."""
    width, height = SCREENS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(60_000)
    tab, faults = context.new_page(), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda asked: faults.append(asked.url) if asked.url != page.as_uri() else None)
    tab.goto(page.as_uri())
    for figure in tab.query_selector_all("figure"):
        figure.scroll_into_view_if_needed()
        figure.wait_for_selector(".main-svg")
    yield tab, faults
    context.close()


@pytest.fixture
def screen(opened):
    """The page with its controls as they were at first; a fault of its scripts fails the test."""
    tab, faults = opened
    tab.evaluate(
        """() => {
            Object.assign(view, {axis: "step", log: false, smooth: 3, range: null});
            document.getElementById("axis").value = "step";
            document.getElementById("log").checked = false;
            redraw();
        }"""
    )
    yield tab
    assert faults == []


def lines(tab, key="loss"):
    return tab.evaluate(
        """key => [...document.querySelectorAll('#curves figure')].find(one => one.dataset.key === key)
            .data.map(({name, meta, x, y}) => ({name, meta, x, y}))""",
        key,
    )


def see(tab, key="loss"):
    tab.locator(f'figure[data-key="{key}"]').scroll_into_view_if_needed()
    tab.wait_for_function("key => ![...stale].some(one => one.dataset.key === key)", arg=key)


def test_every_figure_is_drawn_and_nothing_is_wider_than_the_screen(screen):
    figures = screen.evaluate("DATA.figures.length")
    drawn = "#curves figure:has(.scatterlayer .trace path)"
    assert screen.locator(drawn).count() == figures == 10
    assert screen.locator("[data-scores] .scatterlayer .trace").count() > 0
    assert screen.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert screen.locator("img").count() == 0


def test_another_axis_moves_the_same_values(screen):
    see(screen)
    before = lines(screen)[0]
    for axis, factor in (("tokens", 64), ("samples", 2), ("seconds", 0.5 / 60)):
        screen.locator("#axis").select_option(axis)
        see(screen)
        after = lines(screen)[0]
        assert after["y"] == before["y"]
        assert after["x"] == pytest.approx([factor * step for step in before["x"]])


def test_a_run_is_switched_off_and_on(screen):
    see(screen)
    assert {line["meta"] for line in lines(screen)} == {0, 1, None}
    button = screen.locator("#runs button").nth(1)
    button.click()
    see(screen)
    assert {line["meta"] for line in lines(screen)} == {0, None}
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    see(screen)
    assert {line["meta"] for line in lines(screen)} == {0, 1, None}


def test_a_zoom_is_for_all_figures_and_the_scale_for_all_too(screen):
    loss, rate = '[data-key="loss"]', '[data-key="learning_rate"]'
    see(screen)
    zoom = "{'xaxis.range[0]': 100, 'xaxis.range[1]': 400}"
    screen.evaluate(f"Plotly.relayout(document.querySelector('{loss}'), {zoom})")
    see(screen, "learning_rate")
    read = f"document.querySelector('{rate}').layout"
    assert screen.evaluate(f"{read}.xaxis.range") == [100, 400]
    screen.locator("#whole").click()
    screen.locator("#log").check()
    see(screen, "learning_rate")
    assert screen.evaluate(f"{read}.yaxis.type") == "log"
    assert screen.evaluate(f"{read}.xaxis.range[1]") > 1900


def test_the_values_of_all_runs_are_shown_under_the_pointer(screen):
    see(screen, "grad_norm")
    box = screen.locator('[data-key="grad_norm"] .nsewdrag').first.bounding_box()
    screen.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    screen.wait_for_selector('[data-key="grad_norm"] .hoverlayer .legendtext')
    told = screen.locator('[data-key="grad_norm"] .hoverlayer').text_content()
    assert "first" in told
    assert EVIL.replace("/", "")[:10] in told


def test_smoothing_keeps_the_raw_line_beside_it(screen):
    screen.locator("#smooth").fill("0")
    see(screen, "grad_norm")
    raw = lines(screen, "grad_norm")
    screen.locator("#smooth").fill("20")
    see(screen, "grad_norm")
    smooth = lines(screen, "grad_norm")
    assert [line["y"] for line in smooth[::2]] == [line["y"] for line in raw]
    assert max(smooth[1]["y"]) < max(raw[0]["y"])


def test_a_head_is_told_under_the_pointer_and_shown_large_on_a_click(screen):
    head = screen.locator(".heads canvas").nth(13)
    head.scroll_into_view_if_needed()
    head.hover(position={"x": 1, "y": 1})
    told = screen.locator(".told").first
    assert told.inner_text().startswith("layer 2, head 2: a → a")
    head.click()
    title = screen.locator(".head .gtitle").first
    assert title.text_content() == "Self-attention: layer 2, head 2"
    share = screen.evaluate("document.querySelector('.head').data[0].z[0].reduce((a, b) => a + b)")
    assert share == pytest.approx(1, abs=1e-3)
