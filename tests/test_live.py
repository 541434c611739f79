"""The living page, in a browser: what it tells, shows and measures is what PyTorch computes."""
import json
import os
import random
import re
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from tinyrope import attention
from tinyrope.checkpoint import Run
from tinyrope.corpora import ASSETS, load_stories
from tinyrope.eval_attention import attention_maps
from tinyrope.live import _nats, in_8_bits, read_page, write_page
from tinyrope.model import ModelConfig, Transformer
from tinyrope.rope import apply_rope, rope_frequencies, rope_tables, scaled_frequencies
from tinyrope.store import EOT

# as in continuous integration: nothing is skipped
REQUIRED = os.environ.get("TINYROPE_REQUIRE_BROWSER") == "1"
ADVICE = "selenium is not installed: pip install -e '.[browser]'"
if not REQUIRED: pytest.importorskip("selenium", reason=ADVICE)
from browser import BROWSER, DRIVER, NEEDS, open_browser, open_page, wait, wish_for
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER or REQUIRED), reason=NEEDS)
SAME = dict(atol=1e-4, rtol=0)


# ---- the browser

@pytest.fixture(scope="module")
def driver():
    "A browser without a window"
    driver = open_browser()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def run():
    "The model in the package"
    return Run("bundled")


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    "The page of the model in the package"
    path = tmp_path_factory.mktemp("page")/"page.html"
    write_page(path, run, "Rosa")
    return path


@pytest.fixture(scope="module")
def model(run):
    "The model that the page has: in 8 bits"
    return in_8_bits(run.model)


def fetched(driver):
    "The kinds of addresses that the browser has asked for since it was last asked this"
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [event["params"]["request"]["url"].partition(":")[0] for event in events
            if event["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def page(driver, file):
    "The page, freshly opened; nothing may go wrong, and nothing be fetched but the page itself"
    driver.get_log("performance")
    open_page(driver, file)
    yield driver
    assert driver.get_log("browser") == []
    asked = fetched(driver)
    assert asked and set(asked) <= {"file", "data", "blob"} and asked.count("file") == 1


def find(page, selector):
    "The first element of a page that a CSS selector finds"
    return page.find_element(By.CSS_SELECTOR, selector)


def fill(page, **values):
    "Type into fields"
    for name, value in values.items():
        page.execute_script("$(arguments[0]).value = arguments[1]", name.replace("_", "-"), value)


def tell(page, prompt="Once upon a time", **settings):
    "Type a prompt, press the button and wait for the end of the story; returns its token ids"
    fill(page, **dict(length=24) | settings)
    field = find(page, "#prompt")
    field.clear()
    field.send_keys(prompt + Keys.ENTER)
    return finished(page)


def finished(page):
    "Wait until the story has been told; returns its token ids"
    wait(page, "!telling && story.rows.length === story.ids.length && story.ids.length > 0")
    wait(page, "shown.length === story.ids.length")
    return page.execute_script("return story.ids")


# ---- the tokenizer

def texts():
    "A thousand texts: stories, and characters at random"
    draw = random.Random(0)
    latin = [chr(code) for code in range(32, 0x250)]
    far = list("中文字العربيةहिन्दी한국어🐉🙂é\u0301ﬁⅣ½ \u2003\u00a0\u3000\u0085\u200b\ufeff\n'’'s't")
    near = [*" '\n\r\tabclorestdmv'01.,!?", EOT]
    odd = ["".join(draw.choices(pool, k=draw.randint(0, 120)))
           for pool in (latin, far, near) for _ in range(100)]
    return [*load_stories("test")[:700], *odd]


def test_the_page_reads_a_thousand_texts_as_the_library_does(page, run):
    "Token for token, end-of-text included; and it writes them as they were"
    given = texts()
    assert len(given) == 1000
    expected = [e.ids for e in run.tokenizer.encode_batch(given, add_special_tokens=False)]
    assert page.execute_script("return arguments[0].map(t => tokenizer.encode(t))", given) == expected
    stories = page.execute_script("return arguments[0].map(ids => tokenizer.decode(ids))",
                                  expected[:50])
    assert stories == given[:50]


# ---- the numbers

NATS = """
const [ids, change, done] = [arguments[0], arguments[1], arguments[2]];
const model = new Model(c, tensors), nats = [], hands = {...untouched(c), ...change};
model.begin(hands, ids.length);
for (let t = 0; t + 1 < ids.length; t++) {
  const z = model.step(ids[t], t);
  nats.push(Math.log(z.reduce((sum, v) => sum + Math.exp(v), 0)) - z[ids[t + 1]]);
}
done(nats);
"""


@pytest.fixture
def passage(run):
    "The beginning of a validation story"
    return [0, *run.tokenizer.encode(load_stories("valid")[1]).ids][:80]


def with_tables(model, frequencies, offset=0, scale=1., stopped=()):
    "Give a model other tables of positions"
    cos, sin = rope_tables(model.config.seq_len, frequencies, offset, scale)
    cos[:, stopped], sin[:, stopped] = 1, 0
    model.positions.cos, model.positions.sin = cos, sin


PLAIN = rope_frequencies(32)
TABLES = {
    "untouched": ({}, dict(frequencies=PLAIN)),
    "no rotation": (dict(stopped=[True]*16), dict(frequencies=PLAIN, stopped=list(range(16)))),
    "a band": (dict(stopped=[i in (2, 3) for i in range(16)]),
               dict(frequencies=PLAIN, stopped=[2, 3])),
    "shifted": (dict(shift=1000), dict(frequencies=PLAIN, offset=1000))}
for method in ("linear", "ntk", "yarn"):
    new, scaled = scaled_frequencies(32, method=method, factor=4, trained_len=512)
    TABLES[method] = dict(method=method, factor=4), dict(frequencies=new, scale=scaled)


@pytest.mark.parametrize("case", TABLES)
def test_turned_hands_give_the_loss_that_pytorch_gives(page, run, passage, case):
    "Each token has the nats of a model with such tables of positions"
    hands, tables = TABLES[case]
    other = in_8_bits(run.model)
    with_tables(other, **tables)
    nats = torch.tensor(page.execute_async_script(NATS, passage, hands))
    torch.testing.assert_close(nats, _nats(other, passage), **SAME)


def test_heads_that_are_off_add_nothing(page, run, passage):
    "As in a model whose output matrix does not see them"
    other = in_8_bits(run.model)
    for layer, head in ((0, 1), (3, 5)):
        with torch.no_grad():
            other.blocks[layer].attention.out.weight[:, 32*head:32*(head + 1)] = 0
    off = [i in (1, 3*6 + 5) for i in range(36)]
    nats = torch.tensor(page.execute_async_script(NATS, passage, dict(off=off)))
    torch.testing.assert_close(nats, _nats(other, passage), **SAME)


def test_the_certificate_reads_the_logits_of_the_page(driver, file, model, passage):
    "Of several tokens at once, and of one more"
    from certificate import Page
    with torch.no_grad(): expected = model(torch.tensor([passage]))[0]
    page = Page(driver, file)
    found = [*page.logits(passage[:-1]), page.step(passage[-1], len(passage) - 1)]
    torch.testing.assert_close(torch.from_numpy(np.stack(found)), expected, **SAME)


@contextmanager
def unrotated(places, n_heads=6):
    "Let heads, given as (layer, head), use queries and keys as they are, in each pass of a model"
    rotate, calls = attention.apply_rope, []

    def partly(qk, cos, sin):
        layer, rotated = len(calls) % 6, rotate(qk, cos, sin)
        calls.append(layer)
        for head in (h for l, h in places if l == layer):
            for row in (head, n_heads + head): rotated[:, row] = qk[:, row]
        return rotated
    attention.apply_rope = partly
    try: yield
    finally: attention.apply_rope = rotate


def test_a_head_that_is_not_rotated_compares_contents_only(page, model, passage):
    "Its queries and keys are those of PyTorch before the rotation"
    plain = [i in (2, 4*6 + 3) for i in range(36)]
    nats = torch.tensor(page.execute_async_script(NATS, passage, dict(plain=plain)))
    with unrotated([(0, 2), (4, 3)]): expected = _nats(model, passage)
    torch.testing.assert_close(nats, expected, **SAME)
    assert (expected - _nats(model, passage)).abs().max() > .01     # it is a change


# ---- a story

def test_a_prompt_grows_into_a_story(page):
    "Tokens appear, speed and status say how many; the same seed tells the same, another another"
    first = tell(page, "The little dragon")
    said = find(page, "#text").text
    assert "The little dragon" in re.sub(r"\s+", " ", said) and len(first) > 10
    assert re.fullmatch(r"\d+ tokens, \d+ tokens per second", find(page, "#speed").text)
    assert find(page, "#status").get_attribute("textContent").startswith("Told ")
    assert tell(page, "The little dragon") == first
    assert tell(page, "The little dragon", seed=7) != first


def test_without_temperature_it_tells_what_python_told(page, file):
    "Greedily, token by token"
    proof = read_page(file)[0]["proofs"][0]
    ids = tell(page, proof["prompt"], temperature=0)
    assert ids == [*proof["ids"], *proof["greedy"]][:len(ids)] and len(ids) > 20


def test_what_tokens_look_at_is_what_the_model_computes(page, model):
    "The weights of all layers, heads and tokens of a story"
    ids = tell(page)
    maps = attention_maps(model, torch.tensor([ids]))[:, 0].flatten(0, 1)     # (head, query, key)
    rows = page.execute_script("return story.rows.map(row => [...row])")
    for q, row in enumerate(rows):
        weights = torch.tensor(row, dtype=torch.float32).view(36, q + 1)
        torch.testing.assert_close(weights, maps[:, q, :q+1], **SAME)


def test_a_story_goes_on_from_an_alternative(page):
    "Pointing at a token shows what else could have come; a click takes it"
    ids = tell(page)
    ActionChains(page).move_to_element(page.execute_script("return shown[8].button")).perform()
    wait(page, "!$('alternatives').hidden")
    offered = page.execute_script("return story.others[8].map(([id]) => id)")
    chances = page.execute_script("return story.others[8].map(([, p]) => p)")
    assert len(offered) == 8 and chances == sorted(chances, reverse=True)
    other = next(i for i, id in enumerate(offered) if id != ids[8])
    page.find_elements(By.CSS_SELECTOR, "#alternatives button")[other].click()
    assert finished(page)[:9] == [*ids[:8], offered[other]]


def test_keys_reach_tokens_and_their_alternatives(page):
    "Arrows go through the story, down into the alternatives, Escape back"
    tell(page)
    page.execute_script("shown[6].button.focus(); choose(6)")
    def keys(name): ActionChains(page).send_keys(name).perform()
    keys(Keys.ARROW_RIGHT)
    wait(page, "document.activeElement === shown[7].button && now.query === 7")
    wait(page, "!$('alternatives').hidden")
    keys(Keys.ARROW_DOWN)
    assert page.execute_script("return $('alternatives').contains(document.activeElement)")
    keys(Keys.ESCAPE)
    assert page.execute_script("return document.activeElement === shown[7].button")
    assert page.execute_script("return $('alternatives').hidden")


def test_everything_that_can_be_used_has_a_name(page):
    "For those who do not see it"
    tell(page)
    controls = page.find_elements(By.CSS_SELECTOR, "button, input, select, canvas")
    assert len(controls) > 80 and not [c.get_attribute("outerHTML") for c in controls
                                       if c.is_displayed() and not c.accessible_name]


# ---- hands

def cost(page):
    "What the page says of the loss, when it has been measured"
    wait(page, "/per byte|difference/.test($('cost').textContent)")
    return find(page, "#cost").text


def test_the_loss_rises_without_rotation(page):
    "The story changes too, and what the model told before stands beside it"
    ids = tell(page)
    page.find_elements(By.CSS_SELECTOR, "#bands button")[-1].click()
    assert float(re.match(r"\+([\d.]+) bits per byte", cost(page))[1]) > .3
    assert finished(page) != ids and find(page, "#before").is_displayed()
    find(page, "#reset").click()
    wait(page, "$('cost').textContent.startsWith('Nothing')")
    assert finished(page) == ids


def test_shifting_all_positions_changes_nothing(page):
    "Scores depend on distances; the story is the same"
    ids = tell(page)
    find(page, "#shift").click()
    assert cost(page).startswith("No difference")
    assert finished(page) == ids and "same story" in find(page, "#before").text


def test_a_head_is_stopped_and_then_switched_off(page):
    "By two clicks; a third one lets it work again"
    head = page.find_elements(By.CSS_SELECTOR, "#heads button")[8]
    for state in ("not rotated", "off", "works"):
        head.click()
        assert head.accessible_name == f"layer 1, head 2: {state}"


# ---- the proof

def test_the_page_compares_itself_with_python(page):
    "All greedy tokens are the same, and no logit is off by more than 1e-4"
    find(page, "#prove").click()
    wait(page, "/differ/.test($('proved').textContent)")
    said = find(page, "#proved").text
    assert said.startswith("All 180 tokens are the same")
    assert 0 < float(re.search(r"more than ([\d.]+)\.$", said)[1]) < 1e-4


def test_a_difference_would_be_noticed(page):
    "Were a weight another one, the page would say so"
    page.execute_script("tensors['proof.0'].values[5] += .5; data.proofs[1].greedy[3] = 7")
    find(page, "#prove").click()
    wait(page, "/differ/.test($('proved').textContent)")
    assert find(page, "#proved").text.startswith("1 tokens differ, and logits by up to 0.5")


def test_other_shapes_are_right_too(driver, run, tmp_path):
    "Grouped queries, a head of its own, a stretched context, and a vocabulary that no 4 divides"
    shape = dict(dim=48, n_layers=2, n_heads=6, n_kv_heads=2, seq_len=64, tied=False,
                 rope_method="yarn", rope_factor=2.)
    torch.manual_seed(0)
    other = Transformer(ModelConfig(vocab_size=4097, **shape)).eval()
    small = SimpleNamespace(model=other, tokenizer=run.tokenizer, folder=tmp_path)
    write_page(tmp_path/"small.html", small, stories=load_stories("valid")[:50])
    open_page(driver, tmp_path/"small.html")
    find(driver, "#prove").click()
    wait(driver, "/differ/.test($('proved').textContent)")
    assert find(driver, "#proved").text.startswith("All "), find(driver, "#proved").text


def test_a_page_that_would_load_too_long_is_refused(run, tmp_path, monkeypatch):
    "And nothing is written"
    monkeypatch.setattr("tinyrope.live.MAX_MB", 3)
    with pytest.raises(ValueError, match="the page would have 4 MB and may have 3"):
        write_page(tmp_path/"large.html", run, stories=["Once upon a time there was a cat."])
    assert not list(tmp_path.iterdir())


# ---- browsers

@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    "The page needs no horizontal scrolling on small screens"
    screen = dict(width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    tell(page, length=8)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_turns_the_scale_round(page):
    "Where dark colours are wished, page and shades are others"
    look = "return [getComputedStyle(document.body).backgroundColor, css(shadeOf(.5))]"
    before = page.execute_script(look)
    wish_for(page, color_scheme="dark")
    after = page.execute_script(look)
    assert all(a != b for a, b in zip(before, after))


def test_a_browser_that_lacks_something_gets_a_sentence(driver, file):
    "And not a dead page"
    hide = dict(source="delete window.DecompressionStream")
    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", hide)
    driver.get(file.as_uri())
    said = find(driver, "#lacks").text
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert said.startswith("This browser lacks decompression streams: open the page in a newer one")
    assert not [entry for entry in driver.get_log("browser") if "favicon" not in entry["message"]]


def test_what_looks_like_html_stays_text(driver, run, tmp_path):
    "In names and texts"
    story = "Tom wrote </script><script>throw 1</script> there."
    write_page(tmp_path/"odd.html", run, "</script><b>", [story])
    open_page(driver, tmp_path/"odd.html")
    assert find(driver, "#who").text == "</script><b>" and driver.get_log("browser") == []


def test_sixty_tokens_take_less_than_a_second(page):
    "Of processor time, the page's drawing included: what a machine that does nothing else needs"
    tell(page)
    browser = psutil.Process(page.service.process.pid).children(recursive=True)
    renderer = max(browser, key=lambda p: p.cpu_times().user)
    before = renderer.cpu_times()
    ids = tell(page, length=200, seed=3)
    after = renderer.cpu_times()
    seconds = after.user + after.system - before.user - before.system
    assert len(ids)/seconds > 60, f"{len(ids)} tokens in {seconds:.1f} s"


# ---- the figure in the chapter on rotary embeddings

def test_the_score_of_the_figure_stays_where_only_the_position_moves(driver):
    "And changes with the distance, as `apply_rope` computes it"
    driver.get((ASSETS/"live"/"pairs.html").as_uri())

    def move(slider, value):
        script = """arguments[0].value = arguments[1];
            arguments[0].dispatchEvent(new Event("input", {bubbles: true}));
            return document.querySelector(".score").value"""
        return driver.execute_script(script, find(driver, slider), value)
    first, arrow = find(driver, ".score").text, "return document.querySelector('.q').outerHTML"
    before = driver.execute_script(arrow)
    assert move(".position", 300) == first and driver.execute_script(arrow) != before
    q = torch.tensor([.9, .5, -.7, .8, .3, -.8, .6, .5])
    k = torch.tensor([.6, .8, -.4, .9, .7, -.4, .8, -.2])
    cos, sin = rope_tables(301, rope_frequencies(8))
    for distance in (40, 3, 0):
        rows = slice(300, 301), slice(300 - distance, 301 - distance)
        turned = [apply_rope(x[None], cos[at], sin[at]) for x, at in zip((q, k), rows)]
        score = (turned[0] * turned[1]).sum().item()
        assert float(move(".distance", distance)) == pytest.approx(score, abs=2e-4)
