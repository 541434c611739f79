"""The interactive attention page, in a browser: what it shows is what the model computes."""
import os
import re
import shutil

import pytest
import torch
from conftest import ROOT

from tinyrope.attention_page import page_stories, write_attention_page
from tinyrope.checkpoint import Run
from tinyrope.eval_attention import attention_maps, encode, token_strings

REQUIRED = os.environ.get("TINYROPE_REQUIRE_BROWSER") == "1"        # as in continuous integration: nothing is skipped
if not REQUIRED: pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[browser]'")
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
NEEDS = "needs chromium or chrome, and chromedriver"
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER or REQUIRED), reason=NEEDS)
PAGE = ROOT/"nbs"/"attention-map.html"
KEPT = 1/255 + 1e-3         # 8 bits, and the one decimal of a percentage


@pytest.fixture(scope="module")
def driver():
    assert BROWSER and DRIVER, NEEDS
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1100"): options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver):
    "The page, freshly opened; afterwards nothing may have gone wrong and nothing may have been fetched"
    driver.get_log("performance")
    driver.get(PAGE.as_uri())
    yield driver
    assert driver.get_log("browser") == []
    asked = re.findall(r'Network\.requestWillBeSent".*?"url":"(\w+):', "".join(e["message"] for e in driver.get_log("performance")))
    assert asked and set(asked) <= {"file", "data"} and asked.count("file") == 1


@pytest.fixture(scope="module")
def stories():
    "What the model computes: for each story its token names and (n_layers, n_heads, query, key) weights"
    run = Run("bundled")
    tokens = [encode(run.tokenizer, text, 48) for text in page_stories().values()]
    return [(token_strings(run.tokenizer, t), attention_maps(run.model, t)[:, 0]) for t in tokens]


def choose(page, story=None, layer=None, head=None):
    if story is not None: Select(page.find_element(By.ID, "story")).select_by_index(story)
    for name, value in (("layer", layer), ("head", head)):
        if value is not None: page.find_element(By.CSS_SELECTOR, f"#{name} input[value='{value}'] + span").click()

def buttons(page): return page.find_elements(By.CSS_SELECTOR, "#text button")

def current(page): return [b.get_attribute("aria-current") for b in buttons(page)].index("true")

def said(text): return float(re.search(r": ([\d.]+) %$", text)[1])/100

def shown(page): return [said(b.get_attribute("aria-label")) for b in buttons(page)[:current(page)+1]]

def close(weights, expected): return torch.allclose(torch.tensor(weights), expected, atol=KEPT, rtol=0)


def test_tokens_are_those_of_the_model(page, stories):
    assert len(Select(page.find_element(By.ID, "story")).options) == len(stories) == 4
    for i, (names, _) in enumerate(stories):
        choose(page, story=i)
        assert [b.text for b in buttons(page)] == names


def test_weights_are_those_of_the_model(page, stories):
    for story, layer, head, query in ((0, 0, 0, 4), (1, 5, 3, 2), (2, 3, 5, 40), (3, 1, "mean", 20), (3, 5, 1, 47)):
        choose(page, story, layer, head)
        buttons(page)[query].click()
        weights = stories[story][1][layer, :, query, :query+1]
        assert current(page) == query and close(shown(page), weights.mean(0) if head == "mean" else weights[head])
        which = "mean over heads" if head == "mean" else f"head {head}"
        assert page.find_element(By.CSS_SELECTOR, "figure h2").text == f"Layer {layer}, {which}"


def test_keys_and_buttons_step_through_the_story(page, stories):
    weights, body = stories[0][1][5].mean(0), page.find_element(By.TAG_NAME, "body")
    start, last = current(page), len(stories[0][0]) - 1
    for key, query in ((Keys.ARROW_RIGHT, start + 1), (Keys.ARROW_RIGHT, start + 2), (Keys.ARROW_LEFT, start + 1)):
        body.send_keys(key)
        assert current(page) == query and close(shown(page), weights[query, :query+1])
    for _ in range(last): body.send_keys(Keys.ARROW_RIGHT)
    assert current(page) == last and not page.find_element(By.ID, "on").is_enabled()
    page.find_element(By.ID, "back").click()
    assert current(page) == last - 1


def test_arrows_choose_when_a_choice_has_the_focus(page):
    before = current(page)
    page.find_element(By.CSS_SELECTOR, "#head input[value='mean']").send_keys(Keys.ARROW_RIGHT)
    assert page.find_element(By.CSS_SELECTOR, "#head :checked").get_attribute("value") == "0" and current(page) == before


def test_pointing_shows_token_and_weight(page, stories):
    choose(page, story=1, layer=2, head=4)
    (names, maps), query, key = stories[1], 5, 3
    buttons(page)[query].click()
    ActionChains(page).move_to_element(buttons(page)[key]).perform()
    tip = page.find_element(By.ID, "tip")
    assert tip.text.startswith(f"{names[query]} → {names[key]}: ") and close(said(tip.text), maps[2, 4, query, key])

    canvas, n, margin = page.find_element(By.ID, "map"), len(names), 72
    size = canvas.size
    cell = (size["width"] - margin)/n
    ActionChains(page).move_to_element_with_offset(canvas, margin + .5*cell - size["width"]/2, margin + (n - .5)*cell - size["height"]/2).perform()
    assert tip.text.startswith(f"{names[-1]} → {names[0]}: ") and close(said(tip.text), maps[2, 4, -1, 0])
    ActionChains(page).click().perform()
    assert current(page) == n - 1


@pytest.mark.parametrize("width", [320, 375, 768, 1200])
def test_nothing_is_wider_than_the_screen(page, width):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(width=width, height=700, deviceScaleFactor=1, mobile=width < 500))
    choose(page, story=3)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_turns_the_scale_round(page):
    ground = lambda: page.execute_script("return getComputedStyle(document.querySelector('#text button')).backgroundColor")
    light = ground()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[dict(name="prefers-color-scheme", value="dark")]))
    WebDriverWait(page, 5).until(lambda _: ground() != light)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[]))


def test_a_page_of_other_stories_opens(driver, tmp_path):
    run = Run("bundled")
    write_attention_page(tmp_path/"one.html", run.model, run.tokenizer, {"<b>": "Tom wrote </script><script>throw 1</script>"})
    driver.get((tmp_path/"one.html").as_uri())
    assert "".join(b.text for b in buttons(driver)).replace("␣", "").endswith("<script>throw1</script>") and driver.get_log("browser") == []
