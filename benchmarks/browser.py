"""A browser without a window, in which the living page is opened: chromium or chrome."""
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
NEEDS = "needs chromium or chrome, and chromedriver"
PATIENCE = 300      # seconds; a busy machine is slow


def open_browser():
    "Open a browser. Raises ImportError if there is none, or no selenium"
    from selenium import webdriver
    if not (BROWSER and DRIVER): raise ImportError(NEEDS)
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(PATIENCE)
    return driver


def wish_for(driver, **wishes):
    "Let the browser say what its user wishes: colours, motion"
    features = [dict(name=f"prefers-{k.replace('_', '-')}", value=v) for k, v in wishes.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=features))


def wait(driver, condition):
    "Wait until a JavaScript expression is true"
    from selenium.webdriver.support.ui import WebDriverWait
    WebDriverWait(driver, PATIENCE).until(lambda d: d.execute_script(f"return {condition}"))


def open_page(driver, path):
    "Open a page, on which no story begins by itself"
    wish_for(driver, reduced_motion="reduce")
    driver.get(path.as_uri())
    wait(driver, "!!teller && !$('tell').disabled")
