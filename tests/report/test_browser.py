"""The page in a real browser: what a person sees, and what the slider moves."""

import json

import browser
import numpy as np
import pytest
from browser import driver as driver
from runs_on_disk import WEIGHTS, sweep_with_rows

import cfg_jax
from cfg_jax.report import page

COUNT = 20
SHIFTED = (0.0, 4.0, 40.0)  # weights of the second run


@pytest.fixture(scope='module')
def workdir(swept_workdir, tmp_path_factory):
    return sweep_with_rows(swept_workdir, tmp_path_factory.mktemp('runs'))


@pytest.fixture(scope='module')
def one(driver, workdir, tmp_path_factory):
    """The page of one run."""
    out = tmp_path_factory.mktemp('out') / 'report.html'
    return page.write([workdir], out, count=COUNT, label=3, command='make report')


@pytest.fixture(scope='module')
def two(driver, workdir, swept_workdir, tmp_path_factory):
    """The page of two runs, one of which has a name that a page might take for an element."""
    root = tmp_path_factory.mktemp('more')
    other = sweep_with_rows(swept_workdir, root, '<b>other<!--', SHIFTED, shift=3.0)
    return page.write([workdir, other], root / 'report.html', count=COUNT)


def press(driver, key, times=1, where='w'):
    from selenium.webdriver.common.by import By

    driver.find_element(By.ID, where).send_keys(key * times)


def shown(driver):
    """w of pictures, rows and points: (of the cells, of the marked rows, of the ringed points)."""
    browser.wait_until(
        driver,
        "[...document.querySelectorAll('.cells:not(.missing)')].every("
        'c => Number(c.dataset.w) === weights[chosen.index])',
    )
    return driver.execute_script(
        """
        const cells = [...document.querySelectorAll('.cells:not(.missing)')];
        const rows = [...document.querySelectorAll('tr[aria-current]')];
        const ringed = [];
        for (const svg of document.querySelectorAll('svg')) {
          for (const ring of svg.querySelectorAll('.ring[visibility=visible]')) {
            const [x, y] = [ring.cx.baseVal.value, ring.cy.baseVal.value];
            for (const title of svg.querySelectorAll('.points title')) {
              const box = title.parentNode.getBBox();
              const near = Math.hypot(box.x + box.width / 2 - x, box.y + box.height / 2 - y) < 1.5;
              if (near) ringed.push(Number(title.textContent.split('w = ')[1]));
            }
          }
        }
        return [cells.map(c => Number(c.dataset.w)), rows.map(r => Number(r.dataset.w)), ringed];
        """
    )


def pixels(driver, number):
    """The picture in cell `number` of the first run, uint8 [H, W]."""
    values = driver.execute_script(
        """
        const canvas = document.querySelector('.cells').children[arguments[0]].firstChild;
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return [...data].filter((_, i) => i % 4 === 0);
        """,
        number,
    )
    return np.asarray(values).reshape(8, 8)


def test_it_opens_from_disk_and_asks_for_nothing(driver, one):
    browser.open_page(driver, one)
    assert browser.requests(driver) == [one.resolve().as_uri()]
    assert driver.get_log('browser') == []
    paints = "performance.getEntriesByName('first-contentful-paint')"
    browser.wait_until(driver, f'{paints}.length > 0')  # reported some time after it was
    assert driver.execute_script(f'return {paints}[0].startTime') < 1000
    assert 'make report' in driver.page_source


def test_the_keyboard_moves_picture_point_and_row_together(driver, one, workdir):
    from selenium.webdriver.common.keys import Keys

    browser.open_page(driver, one)
    model = cfg_jax.load(workdir)
    drawn = model.sample([0] * 5, w=WEIGHTS, indices=[10] * 5)[..., 0].astype(int)
    assert np.abs(drawn[0] - drawn[4]).max() > 8
    for i, w in enumerate(WEIGHTS):
        cells, rows, ringed = shown(driver)
        assert (cells, rows) == ([w], [w])
        # FID against IS, IS against w, precision and recall, and the four others against w.
        assert ringed == [w] * 7
        assert np.abs(pixels(driver, 10) - drawn[i]).max() <= 1
        text = driver.execute_script("return document.getElementById('w-text').textContent")
        assert text == f'w = {w:g}  (s = {1 + w:g})'
        press(driver, Keys.ARROW_RIGHT)
    press(driver, Keys.HOME)
    assert shown(driver)[0] == [0.0]


def test_arrows_work_wherever_the_focus_is(driver, one):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open_page(driver, one)
    ActionChains(driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT).perform()
    assert shown(driver)[:2] == [[WEIGHTS[1]], [WEIGHTS[1]]]


def test_rows_and_points_are_clicked(driver, one):
    browser.open_page(driver, one)
    driver.execute_script('document.querySelector(\'tr[data-w="1"]\').click()')
    assert shown(driver)[:2] == [[1.0], [1.0]]
    driver.execute_script(
        "document.querySelector('.points circle:last-of-type')"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert shown(driver)[:2] == [[64.0], [64.0]]


def test_a_class_alone(driver, one, workdir):
    browser.open_page(driver, one)
    visible = (
        "[...document.querySelector('.cells').children].filter(c => c.offsetHeight > 0)"
        '.map(c => c.textContent)'
    )
    assert driver.execute_script(f'return {visible}') == [str(i % 10) for i in range(COUNT)]
    press(driver, '7', where='class')
    assert driver.execute_script(f'return {visible}') == ['7', '7']
    press(driver, 'only', where='set')
    assert driver.execute_script(f'return {visible}') == ['3'] * COUNT
    shown(driver)
    drawn = cfg_jax.load(workdir).sample([3] * 5, w=WEIGHTS, indices=[4] * 5)[0, ..., 0].astype(int)
    browser.wait_until(driver, "document.querySelector('.cells').dataset.w === '0'")
    assert np.abs(pixels(driver, 4) - drawn).max() <= 1


def test_two_runs_share_slider_and_axes(driver, two):
    from selenium.webdriver.common.keys import Keys

    browser.open_page(driver, two)
    assert driver.execute_script('return weights') == [0, 1, 4, 16, 40, 64]
    press(driver, Keys.ARROW_RIGHT)  # w = 1, which only the first run has
    cells, rows, ringed = shown(driver)
    assert (cells, rows, set(ringed)) == ([1.0], [1.0], {1.0})
    values = "return document.getElementById('values').textContent"
    assert 'not measured at this w' in driver.execute_script(values)
    press(driver, Keys.ARROW_RIGHT)
    assert shown(driver)[:2] == [[4.0, 4.0], [4.0, 4.0]]
    names = driver.execute_script(
        "return [...document.querySelectorAll('#tables h3')].map(e => e.textContent)"
    )
    assert names == ['run', '<b>other<!--']
    assert driver.get_log('browser') == []


def test_every_run_has_its_own_command(driver, two):
    """Each with a label of its own pictures; none where nothing can draw them."""
    browser.open_page(driver, two)
    shown = 'return find("sampling").textContent.split("\\n")'
    driver.execute_script('data.runs[1].sets[0].labels[0] = 7; follow()')
    first, second = driver.execute_script(shown)
    assert '--labels=0 --w=0 ' in first
    assert '--labels=7 --w=0 ' in second
    assert driver.execute_script('return find("sampling").hidden') is False


def test_no_command_where_none_can_draw(driver, one, tmp_path):
    text = one.read_text()
    run = json.loads(text.partition('id="data">')[2].partition('</script>')[0])
    run['runs'][0]['sampling'] = ''
    path = tmp_path / 'none.html'
    path.write_text(page.render(run))
    browser.open_page(driver, path)
    assert 'scripts/sample.py' not in driver.execute_script('return document.body.innerText')
    titles = driver.execute_script(
        "return [...document.querySelectorAll('h3')].filter(e => e.offsetHeight > 0)"
        '.map(e => e.textContent)'
    )
    assert 'This page' in titles
    assert 'A picture at the chosen w' not in titles
    assert driver.get_log('browser') == []


@pytest.mark.parametrize('width', [1280, 390])
def test_nothing_overflows(driver, one, two, width):
    for path in (one, two):
        browser.open_page(driver, path, width, 844)
        assert driver.execute_script('return document.documentElement.scrollWidth') == width
        outside = driver.execute_script(
            """
            const inScroller = (e) => e.closest('.table') && !e.matches('.table');
            const cut = (e) => getComputedStyle(e.parentNode).overflowX === 'hidden';
            return [...document.querySelectorAll('body *')].filter(e => !inScroller(e) && !cut(e))
              .map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
              .filter(([, r]) => r.width && (r.right > innerWidth + 1 || r.left < -1));
            """
        )
        assert outside == []


def test_texts_of_a_chart_stay_inside_and_apart(driver, one):
    for width in (1280, 390):
        browser.open_page(driver, one, width, 844)
        overlaps = driver.execute_script(
            """
            const found = [];
            for (const svg of document.querySelectorAll('svg')) {
              const frame = svg.getBoundingClientRect();
              const texts = [...svg.querySelectorAll('text')];
              const boxes = texts.map(t => t.getBoundingClientRect());
              boxes.forEach((a, i) => {
                const inside = a.left > frame.left - 2 && a.right < frame.right + 2;
                if (!inside) found.push(texts[i].textContent);
                boxes.slice(i + 1).forEach((b, j) => {
                  const apart = a.right - 1 < b.left || b.right - 1 < a.left
                    || a.bottom - 3 < b.top || b.bottom - 3 < a.top;
                  if (!apart) found.push([texts[i].textContent, texts[i + 1 + j].textContent]);
                });
              });
            }
            return found;
            """
        )
        assert overlaps == []


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_no_serious_fault_of_accessibility(driver, two, scheme):
    browser.open_page(driver, two, scheme=scheme)
    assert browser.faults(driver) == []
    background = driver.execute_script('return getComputedStyle(document.body).backgroundColor')
    brightness = np.mean(json.loads(background.replace('rgb(', '[').replace(')', ']')))
    assert (brightness > 128) == (scheme == 'light')


def test_the_slider_is_quick(driver, one):
    """From the event of a step to its pictures: the median of 40 steps."""
    browser.open_page(driver, one)
    times = driver.execute_async_script(
        """
        const done = arguments[0];
        (async () => {
          const slider = document.getElementById('w');
          const cells = document.querySelector('.cells');
          const times = [];
          for (let i = 0; i < 40; i++) {
            slider.value = i % weights.length;
            const start = performance.now();
            slider.dispatchEvent(new Event('input'));
            // A task, not a microtask: decoding a sheet must have its turn.
            while (Number(cells.dataset.w) !== weights[i % weights.length]) {
              await new Promise(resolve => setTimeout(resolve));
            }
            document.body.getBoundingClientRect();  // styles and layout are part of the step
            times.push(performance.now() - start);
            await new Promise(requestAnimationFrame);
          }
          done(times);
        })();
        """
    )
    assert len(times) == 40
    assert np.median(times) < 50
