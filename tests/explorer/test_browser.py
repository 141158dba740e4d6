"""The explorer in a real browser: what a person chooses is drawn, and nothing breaks it."""

import base64
import io
import json

import browser
import numpy as np
import pytest
import served
from browser import driver as driver
from PIL import Image

from cfg_jax.data import images
from cfg_jax.explorer.studio import Studio

QUIET = '!current && !timer'
MESSAGE = "document.getElementById('message').textContent"


@pytest.fixture(scope='module')
def model():
    with served.untrained_model() as model:
        yield model


@pytest.fixture(scope='module')
def address(driver, model):
    with served.running(Studio(model, 'tiny')) as port:
        yield f'http://127.0.0.1:{port}/'


def open_explorer(driver, address, **window):
    """Opens the page and waits for the picture that it draws by itself."""
    browser.open_address(driver, address, **window)
    wait_for(driver, 'Drawn in')


def wait_for(driver, words):
    """Waits until nothing is drawn or will be, and the message holds these words."""
    browser.wait_until(driver, f'{QUIET} && {MESSAGE}.includes({json.dumps(words)})', 30)


def choose(driver, **values):
    """Sets fields as a person would, one event each."""
    driver.execute_script(
        """
        find('message').textContent = '';
        for (const [id, value] of Object.entries(arguments[0])) {
          find(id).value = value;
          find(id).dispatchEvent(new Event('input'));
        }
        """,
        values,
    )


def shown(driver):
    """The picture, [H, W]."""
    source = driver.execute_script("return document.getElementById('picture').src")
    head, _, body = source.partition(',')
    assert head == 'data:image/png;base64'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))).astype(int)


def assert_shows(driver, samples):
    """Pixels are enlarged eight times, with a line between pictures."""
    enlarged = samples.repeat(8, axis=1).repeat(8, axis=2)
    expected = images.grid(enlarged, round(len(samples) ** 0.5))[..., 0]
    assert np.abs(shown(driver) - expected).max() <= 1


def press(driver, where, *keys):
    from selenium.webdriver.common.by import By

    driver.find_element(By.ID, where).send_keys(*keys)


def test_what_is_chosen_is_drawn(driver, address, model):
    open_explorer(driver, address)
    assert {url.removeprefix(address) for url in browser.requests(driver)} == {
        *('', 'page.css', 'page.js', 'model', 'pictures')
    }
    assert_shows(driver, model.sample([0] * 4, w=1.0))
    choose(driver, **{'class': 7, 'seed': 12, 'w': 2.5, 'rule': 'interval'})
    choose(driver, options='lowest=0.1,highest=9', sampler='ddim', steps=5)
    wait_for(driver, 'Drawn in')
    settings = {'guidance': 'interval:lowest=0.1,highest=9', 'sampler': 'ddim', 'num_steps': 5}
    assert_shows(driver, model.sample([7] * 4, w=2.5, seed=12, **settings))
    caption = driver.execute_script("return document.getElementById('picture').alt")
    assert caption == (
        '4 pictures of class 7, w = 2.5, seed 12, interval:lowest=0.1,highest=9, ddim, 5 steps'
    )
    progress = "const p = document.getElementById('progress'); return [p.value, p.max]"
    assert driver.execute_script(progress) == [5, 5]
    assert driver.get_log('browser') == []


def test_the_python_it_shows_draws_the_same(driver, address, model):
    open_explorer(driver, address)
    choose(driver, options='+interval:highest=5')
    wait_for(driver, 'Drawn in')
    code = driver.execute_script("return document.getElementById('code').textContent")
    assert "guidance='classifier_free+interval:highest=5'" in code
    assert_shows(driver, eval(code, {'model': model}))
    # As a config has its rule, and the page splits it into two fields.
    for spec, parts in (
        ('classifier_free+interval:highest=5', ['classifier_free', '+interval:highest=5']),
        ('interval:highest=5+rescale', ['interval', 'highest=5+rescale']),
        ('projected', ['projected', '']),
    ):
        assert driver.execute_script('return split(arguments[0])', spec) == parts


def test_several_classes_fill_the_pictures_in_turn(driver, address, model):
    """Chosen with Ctrl held; the number of pictures grows to hold them."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_explorer(driver, address)
    options = driver.find_element(By.ID, 'class').find_elements(By.TAG_NAME, 'option')
    # All in view: a click just after a scroll may hit what stood there before it.
    driver.execute_script("find('class').size = arguments[0]", len(options))

    def click(*labels):
        driver.execute_script("find('message').textContent = ''")
        for label in labels:
            held = ActionChains(driver).key_down(Keys.CONTROL)
            held.click(options[label]).key_up(Keys.CONTROL).perform()

    choose(driver, count=1)
    click(2, 7)
    wait_for(driver, 'Drawn in')
    assert_shows(driver, model.sample([0, 2, 7, 0], w=1.0))
    # Four were compiled before: other classes are drawn by the same program.
    assert 'compiling' not in driver.execute_script(f'return {MESSAGE}')
    caption = driver.execute_script("return find('caption').textContent")
    assert caption.startswith('4 pictures of classes 0, 2, 7 in turn, w = 1, ')
    code = driver.execute_script("return find('code').textContent")
    assert_shows(driver, eval(code, {'model': model}))
    choose(driver, count=1)
    wait_for(driver, 'labels is a list of 1 to 1 classes')
    click(0, 2, 7)
    wait_for(driver, 'labels is a list of 1 to 4 classes')


def test_the_keyboard_is_enough(driver, address, model):
    from selenium.webdriver.common.keys import Keys

    open_explorer(driver, address)
    choose(driver)
    press(driver, 'slider', *[Keys.ARROW_RIGHT] * 3)
    wait_for(driver, 'Drawn in')
    assert driver.execute_script("return document.getElementById('w').value") == '1.3'
    assert_shows(driver, model.sample([0] * 4, w=1.3))
    choose(driver)
    press(driver, 'seed', Keys.CONTROL + 'a' + Keys.NULL, '5', Keys.ENTER)
    wait_for(driver, 'Drawn in')
    assert_shows(driver, model.sample([0] * 4, w=1.3, seed=5))


def test_fifty_quick_moves_leave_it_drawing(driver, address, model):
    """Each with a request of its own, which the next one ends: none is left waiting."""
    open_explorer(driver, address)
    driver.execute_async_script(
        """
        const done = arguments[0];
        (async () => {
          find('message').textContent = '';
          for (let i = 1; i <= 50; i++) {
            find('slider').value = (i % 40) / 10;
            find('slider').dispatchEvent(new Event('input'));
            draw();
            await new Promise((resolve) => setTimeout(resolve, i % 3 ? 0 : 20));
          }
          done();
        })();
        """
    )
    wait_for(driver, 'Drawn in')
    assert_shows(driver, model.sample([0] * 4, w=1.0))
    asked = [url for url in browser.requests(driver) if url.endswith('/pictures')]
    assert len(asked) > 50
    assert driver.get_log('browser') == []


def test_a_drawing_is_cancelled(driver, address, model):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_explorer(driver, address)
    for cancel in (
        lambda: press(driver, 'cancel', Keys.ENTER),
        lambda: ActionChains(driver).send_keys(Keys.ESCAPE).perform(),
    ):
        choose(driver, steps=1000)
        browser.wait_until(driver, "find('stage').textContent.endsWith(' of 1000')", 30)
        cancel()
        wait_for(driver, 'Cancelled')
    choose(driver, steps=4, count=1)
    wait_for(driver, 'Drawn in')
    assert_shows(driver, model.sample([0] * 1, w=1.0))


def test_mistakes_are_told_and_mended(driver, address):
    open_explorer(driver, address)
    for values, words in (
        ({'steps': 1}, 'num_steps is a whole number from 2 to 1000'),
        ({'seed': ''}, 'seed is a whole number from 0 to 4294967295'),
        ({'w': 1e9}, 'w is a number from -100 to 100'),
        ({'options': 'highest=5'}, "has no option 'highest=5'"),
        ({'options': '+intervall'}, "did you mean 'interval'?"),
        ({'rule': 'two_conditions'}, 'a condition of two parts'),
        ({'rule': 'cfg_plus_plus'}, 'use --sampler=ddim'),
    ):
        fields = 'return Object.fromEntries(arguments[0].map((id) => [id, find(id).value]))'
        before = driver.execute_script(fields, list(values))
        choose(driver, **values)
        wait_for(driver, words)
        assert driver.execute_script("return find('message').className") == 'error'
        choose(driver, **before)
        wait_for(driver, 'Drawn in')
        assert driver.execute_script("return find('message').className") == ''
    choose(driver, steps=1)
    wait_for(driver, 'num_steps')
    assert browser.faults(driver) == []


@pytest.mark.parametrize('width', [1280, 800, 390])
def test_nothing_overflows(driver, address, width):
    open_explorer(driver, address, width=width, height=844)
    assert driver.execute_script('return document.documentElement.scrollWidth') == width
    outside = driver.execute_script(
        """
        return [...document.querySelectorAll('body *')]
          .map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
          .filter(([, r]) => r.width && (r.right > innerWidth + 1 || r.left < -1));
        """
    )
    assert outside == []
    # Picture and slider are in sight together.
    bottom = "return document.getElementById('slider').getBoundingClientRect().bottom"
    assert driver.execute_script(bottom) < 844


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_no_serious_fault_of_accessibility(driver, address, scheme):
    open_explorer(driver, address, scheme=scheme)
    assert browser.faults(driver) == []
    background = driver.execute_script('return getComputedStyle(document.body).backgroundColor')
    brightness = np.mean(json.loads(background.replace('rgb(', '[').replace(')', ']')))
    assert (brightness > 128) == (scheme == 'light')


def test_a_server_that_is_gone(driver, model):
    with served.running(Studio(model, 'tiny')) as port:
        open_explorer(driver, f'http://127.0.0.1:{port}/')
    choose(driver, seed=3)
    wait_for(driver, 'The server does not answer')
