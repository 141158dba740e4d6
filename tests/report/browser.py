"""A headless Chromium for the tests of HTML pages, and what they ask it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

AXE = Path(sys.prefix) / 'npm' / 'node_modules' / 'axe-core' / 'axe.min.js'


def missing():
    """Why no page can be opened here; '' where it can."""
    for program in ('chromium', 'chromedriver'):
        if shutil.which(program) is None:
            return f'there is no {program}; `make browser` installs it'
    return ''


def start():
    """A driver of a headless Chromium that records its network and its console."""
    if missing():
        pytest.skip(missing())
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for argument in ('--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars'):
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    service = webdriver.ChromeService(shutil.which('chromedriver'))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(30)
    driver.set_page_load_timeout(30)
    return driver


@pytest.fixture(scope='module')
def driver():
    """The browser of a test file."""
    driver = start()
    yield driver
    driver.quit()


def open_page(driver, path, width=1280, height=900, scheme='light'):
    """Opens a report in a window of this size, and waits until pictures and charts are drawn."""
    open_address(driver, path.resolve().as_uri(), width, height, scheme)
    wait_until(driver, "document.querySelectorAll('.chart').length > 0")
    wait_until(
        driver, "[...document.querySelectorAll('.chart')].every(c => c.querySelector('svg'))"
    )
    wait_until(driver, "[...document.querySelectorAll('.cells')].every(c => 'w' in c.dataset)")


def open_address(driver, address, width=1280, height=900, scheme='light'):
    """Opens any page in a window of this size, with nothing of earlier ones in the records."""
    metrics = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': width < 600}
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})
    driver.get_log('performance')
    driver.get_log('browser')
    driver.get(address)


def wait_until(driver, condition, seconds=10):
    """Waits for a JavaScript condition."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, seconds, 0.02).until(
        lambda d: d.execute_script(f'return {condition}'), condition
    )


def requests(driver):
    """The URLs that were asked for since the page was opened, but those within it."""
    entries = [json.loads(entry['message'])['message'] for entry in driver.get_log('performance')]
    urls = [
        entry['params']['request']['url']
        for entry in entries
        if entry['method'] == 'Network.requestWillBeSent'
    ]
    return [url for url in urls if not url.startswith('data:')]


def faults(driver):
    """axe-core's findings of 'serious' or worse: [(rule, first element)]."""
    if not AXE.exists():
        pytest.skip('there is no axe-core; `make browser` installs it')
    driver.execute_script(AXE.read_text())
    found = driver.execute_async_script(
        'const done = arguments[0]; axe.run(document).then(done, e => done({error: String(e)}))'
    )
    return [
        (fault['id'], fault['nodes'][0]['html'][:200])
        for fault in found['violations']
        if fault['impact'] in ('serious', 'critical')
    ]
