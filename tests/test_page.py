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

# as in continuous integration: nothing is skipped
REQUIRED = os.environ.get("TINYROPE_REQUIRE_BROWSER") == "1"
ADVICE = "selenium is not installed: pip install -e '.[browser]'"
if not REQUIRED: pytest.importorskip("selenium", reason=ADVICE)
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
NEEDS = "needs chromium or chrome, and chromedriver"
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER or REQUIRED), reason=NEEDS)
PAGE = ROOT/"nbs"/"attention-map.html"
KEPT = 1/255 + 1e-3         # 8 bits, and the one decimal of a percentage
MARGIN = 72                 # of the map, where the names of tokens stand, in pixels


# ---- the browser

@pytest.fixture(scope="module")
def driver():
    "A browser without a window"
    assert BROWSER and DRIVER, NEEDS
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--window-size=1200,1100"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def fetched(driver):
    "The kinds of addresses that the browser has asked for since it was last asked this"
    messages = "".join(entry["message"] for entry in driver.get_log("performance"))
    return re.findall(r'Network\.requestWillBeSent".*?"url":"(\w+):', messages)


@pytest.fixture
def page(driver):
    "The page, freshly opened; nothing may go wrong, and nothing be fetched but the page itself"
    driver.get_log("performance")
    driver.get(PAGE.as_uri())
    yield driver
    assert driver.get_log("browser") == []
    asked = fetched(driver)
    assert asked and set(asked) <= {"file", "data"} and asked.count("file") == 1


@pytest.fixture(scope="module")
def stories():
    "What the model computes: token names, and (n_layers, n_heads, query, key) weights of each story"
    run = Run("bundled")
    tokens = [encode(run.tokenizer, text, 48) for text in page_stories().values()]
    maps = [attention_maps(run.model, t)[:, 0] for t in tokens]
    return [(token_strings(run.tokenizer, t), m) for t, m in zip(tokens, maps)]


# ---- what can be done on the page, and what it shows

def find(page, selector):
    "The first element of a page that a CSS selector finds"
    return page.find_element(By.CSS_SELECTOR, selector)


def choose(page, story=None, layer=None, head=None):
    "Choose a story, a layer, a head"
    if story is not None: Select(find(page, "#story")).select_by_index(story)
    for name, value in (("layer", layer), ("head", head)):
        if value is not None: find(page, f"#{name} input[value='{value}'] + span").click()


def buttons(page):
    "The tokens of the text, which can be clicked"
    return page.find_elements(By.CSS_SELECTOR, "#text button")


def current(page):
    "The place of the token that is chosen"
    return [button.get_attribute("aria-current") for button in buttons(page)].index("true")


def said(text):
    "The weight that a text ends in"
    return float(re.search(r": ([\d.]+) %$", text)[1])/100


def shown(page):
    "The weights that are said of the tokens up to the one that is chosen"
    labels = [button.get_attribute("aria-label") for button in buttons(page)]
    return [said(label) for label in labels[:current(page)+1]]


def close(weights, expected):
    "Are weights those of the model, but for what the page rounds away?"
    return torch.allclose(torch.tensor(weights), expected, atol=KEPT, rtol=0)


# ---- what is shown

def test_tokens_are_those_of_the_model(page, stories):
    "The buttons of each story are its tokens"
    assert len(Select(find(page, "#story")).options) == len(stories) == 4
    for i, (names, _) in enumerate(stories):
        choose(page, story=i)
        assert [button.text for button in buttons(page)] == names


@pytest.mark.parametrize("story, layer, head, query", [
    (0, 0, 0, 4), (1, 5, 3, 2), (2, 3, 5, 40), (3, 5, 1, 47)])
def test_weights_are_those_of_the_model(page, stories, story, layer, head, query):
    "The weights of a head are those that the model computes"
    choose(page, story, layer, head)
    buttons(page)[query].click()
    assert current(page) == query
    assert close(shown(page), stories[story][1][layer, head, query, :query+1])
    assert find(page, "figure h2").text == f"Layer {layer}, head {head}"


def test_the_mean_over_heads_is_that_of_the_model(page, stories):
    'The choice "mean" averages the heads of a layer'
    choose(page, 3, 1, "mean")
    buttons(page)[20].click()
    assert current(page) == 20
    assert close(shown(page), stories[3][1][1, :, 20, :21].mean(0))
    assert find(page, "figure h2").text == "Layer 1, mean over heads"


def test_pointing_at_a_token_shows_its_weight(page, stories):
    "The tip names query and key, and their weight"
    choose(page, story=1, layer=2, head=4)
    (names, maps), query, key = stories[1], 5, 3
    buttons(page)[query].click()
    ActionChains(page).move_to_element(buttons(page)[key]).perform()
    tip = find(page, "#tip").text
    assert tip.startswith(f"{names[query]} → {names[key]}: ")
    assert close(said(tip), maps[2, 4, query, key])


def point_at(page, query, key, count):
    "Move to a cell of the map, which has `count` rows and columns"
    canvas = find(page, "#map")
    width, height = canvas.size["width"], canvas.size["height"]
    cell = (width - MARGIN)/count
    x, y = (MARGIN + (place + .5)*cell for place in (key, query))
    move = ActionChains(page).move_to_element_with_offset(canvas, x - width/2, y - height/2)
    move.perform()


def test_pointing_at_the_map_shows_the_weight_and_clicking_chooses(page, stories):
    "A cell of the map is a pair of query and key"
    choose(page, story=1, layer=2, head=4)
    names, maps = stories[1]
    point_at(page, len(names) - 1, 0, len(names))
    tip = find(page, "#tip").text
    assert tip.startswith(f"{names[-1]} → {names[0]}: ")
    assert close(said(tip), maps[2, 4, -1, 0])
    ActionChains(page).click().perform()
    assert current(page) == len(names) - 1


# ---- keys

def test_arrows_step_through_the_story(page, stories):
    "The arrow keys choose the next token and the one before"
    weights, body = stories[0][1][5].mean(0), find(page, "body")
    start = current(page)
    steps = ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_LEFT, 1))
    for key, further in steps:
        body.send_keys(key)
        query = start + further
        assert current(page) == query and close(shown(page), weights[query, :query+1])


def test_steps_end_with_the_story(page, stories):
    "At the last token there is no next one; the button goes back"
    body, last = find(page, "body"), len(stories[0][0]) - 1
    for _ in range(last): body.send_keys(Keys.ARROW_RIGHT)
    assert current(page) == last and not find(page, "#on").is_enabled()
    find(page, "#back").click()
    assert current(page) == last - 1


def test_arrows_choose_when_a_choice_has_the_focus(page):
    "The arrow keys then change the choice, not the token"
    before = current(page)
    find(page, "#head input[value='mean']").send_keys(Keys.ARROW_RIGHT)
    assert find(page, "#head :checked").get_attribute("value") == "0"
    assert current(page) == before


# ---- screens

@pytest.mark.parametrize("width", [320, 375, 768, 1200])
def test_nothing_is_wider_than_the_screen(page, width):
    "The page needs no horizontal scrolling on small screens"
    screen = dict(width=width, height=700, deviceScaleFactor=1, mobile=width < 500)
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    choose(page, story=3)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def wish_for(page, *colours):
    "Let the browser say that its user wishes dark colours, or nothing"
    wish = [dict(name="prefers-color-scheme", value=value) for value in colours]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=wish))


def ground(page):
    "The colour behind the first token"
    script = "return getComputedStyle(document.querySelector('#text button')).backgroundColor"
    return page.execute_script(script)


def test_dark_turns_the_scale_round(page):
    "Where dark colours are wished, the colour behind a token is another"
    light = ground(page)
    wish_for(page, "dark")
    WebDriverWait(page, 60).until(lambda _: ground(page) != light)
    wish_for(page)


# ---- another page

def test_a_page_of_other_stories_opens(driver, tmp_path):
    "What looks like HTML in a story stays text"
    run, path = Run("bundled"), tmp_path/"one.html"
    stories = {"<b>": "Tom wrote </script><script>throw 1</script>"}
    write_attention_page(path, run.model, run.tokenizer, stories)
    driver.get(path.as_uri())
    told = "".join(button.text for button in buttons(driver)).replace("␣", "")
    assert told.endswith("<script>throw1</script>") and driver.get_log("browser") == []
