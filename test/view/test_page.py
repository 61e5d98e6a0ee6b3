# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: it shows the face, its expression and how sure that is.

With $FER_VIEW_SCREENSHOT set to a path, a picture of the page is left there: docs/view.png.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from view_processes import LIMIT_S, running_view

pytest.importorskip('aiohttp', reason='the page needs the extra [view]')
pytest.importorskip('selenium', reason='selenium is not installed: pip install selenium')

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
SWITCHES = (
    'headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run',
    'disable-background-networking', 'disable-component-update', 'disable-sync',
    'disable-dev-shm-usage', 'hide-scrollbars',
)
WIDE, NARROW = (1280, 900), (380, 800)


@pytest.fixture(scope='module')
def browser(
    tmp_path_factory: pytest.TempPathFactory, landmark_model_path: Path
) -> Iterator[webdriver.Chrome]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which('chromedriver')
    if program is None or driver is None:
        pytest.skip('chromium and its driver are not installed: apt install chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in (*SWITCHES, f'user-data-dir={tmp_path_factory.mktemp("chromium")}'):
        options.add_argument(f'--{switch}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


def set_window(browser: webdriver.Chrome, size: tuple[int, int], *, scheme: str) -> None:
    metrics = {'width': size[0], 'height': size[1], 'deviceScaleFactor': 1, 'mobile': False}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    media = {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]}
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', media)


def wait_for(browser: webdriver.Chrome, condition: Callable[[], Any]) -> Any:
    """Wait until something holds; what is replaced while it is looked at is looked at again."""
    waiting = WebDriverWait(
        browser, LIMIT_S, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]
    )
    return waiting.until(lambda _: condition())


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def has_text(browser: webdriver.Chrome, selector: str, text: str) -> bool:
    return any(text in found for found in texts(browser, selector))


def colours_of(browser: webdriver.Chrome, selector: str) -> int:
    """Count the different colours in a canvas: one if nothing is drawn in it."""
    return int(
        browser.execute_script(
            """
            const { width, height } = document.querySelector(arguments[0]);
            const context = document.querySelector(arguments[0]).getContext('2d');
            const { data } = context.getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size;
            """,
            selector,
        )
    )


def complaints(browser: webdriver.Chrome) -> list[str]:
    """Return the errors in the browser's console, but for lost connections."""
    return [
        entry['message']
        for entry in browser.get_log('browser')
        if entry['level'] == 'SEVERE' and 'ERR_CONNECTION' not in entry['message']
    ]


def test_the_sample_clip_in_the_browser(browser: webdriver.Chrome, sample_clip: Path) -> None:
    set_window(browser, WIDE, scheme='light')
    with running_view(sample_clip, '--loop') as view:
        browser.get(view.address)
        # All within one script: the page changes meanwhile.
        read = """
            const card = document.querySelector('.card');
            if (!card) return null;
            const text = (name) => card.querySelector(name).textContent;
            return [text('.expression'), text('.badge-text'), card.dataset.state,
                    ...[...card.querySelectorAll('.class')].map((row) => row.ariaLabel),
                    ...[...card.querySelectorAll('.class')].map((row) => row.ariaValueNow)];
        """

        def is_shown(expression: str) -> bool:
            shown = browser.execute_script(read)
            return bool(shown) and shown[:3] == [expression, 'CONFIDENT', 'CONFIDENT']

        wait_for(browser, lambda: is_shown('neutral'))
        wait_for(browser, lambda: is_shown('happiness'))
        shown = browser.execute_script(read)
        assert shown[3:10] == [
            'neutral', 'anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise',
        ]
        assert sum(float(value) for value in shown[10:]) == pytest.approx(1.0, abs=0.05)
        assert colours_of(browser, '#picture') > 1000
        assert colours_of(browser, '.timeline canvas') > 5
        assert texts(browser, '#stat-faces') == ['1']
        assert texts(browser, '#connection') == ['connected']
        assert has_text(browser, '.predictive', 'nats') and has_text(browser, '.value', '±')
        assert not browser.find_element(By.ID, 'notice').is_displayed()
        for scheme in ('light', 'dark'):
            for size in (NARROW, WIDE):
                set_window(browser, size, scheme=scheme)
                width = browser.execute_script('return document.documentElement.scrollWidth')
                assert width <= size[0]
        # Without the video only landmarks and boxes are left.
        browser.find_element(By.ID, 'show-video').click()
        wait_for(browser, lambda: 1 < colours_of(browser, '#picture') < 1000)
        for name in ('show-landmarks', 'show-boxes'):
            browser.find_element(By.ID, name).click()
        wait_for(browser, lambda: colours_of(browser, '#picture') == 1)
        for name in ('show-video', 'show-landmarks', 'show-boxes'):
            browser.find_element(By.ID, name).click()
        path = os.environ.get('FER_VIEW_SCREENSHOT')
        if path:
            set_window(browser, (1120, 824), scheme='light')
            time.sleep(15)  # for the timeline to fill
            wait_for(browser, lambda: is_shown('happiness'))
            browser.save_screenshot(path)
    assert complaints(browser) == []


def test_no_face_and_the_end(browser: webdriver.Chrome, no_face_clip: Path) -> None:
    set_window(browser, WIDE, scheme='dark')
    with running_view(no_face_clip, '--mc-samples', '2') as view:
        browser.get(view.address)
        wait_for(browser, lambda: has_text(browser, '#no-face', 'No face in sight'))
        wait_for(browser, lambda: texts(browser, '#notice-title') == ['This is the end'])
        assert texts(browser, '#connection') == ['over']
        assert not browser.find_elements(By.CSS_SELECTOR, '.card')
        assert colours_of(browser, '#picture') > 1000  # the last picture stays
        browser.refresh()  # a page that is opened later is told as well
        wait_for(browser, lambda: texts(browser, '#notice-title') == ['This is the end'])
    assert complaints(browser) == []


def test_the_page_comes_back_when_the_server_does(
    browser: webdriver.Chrome, sample_clip: Path
) -> None:
    set_window(browser, WIDE, scheme='light')
    options = ('--loop', '--mc-samples', '2')
    with running_view(sample_clip, *options) as view:
        browser.get(view.address)
        wait_for(browser, lambda: texts(browser, '.expression'))
        assert view.interrupt()[0] == 0  # though a page is open
        wait_for(browser, lambda: texts(browser, '#connection') == ['no connection'])
        # An answer of then is not shown as one of now.
        assert texts(browser, '.badge-text') == ['no connection']
        port = view.address.rstrip('/').rpartition(':')[2]
    with running_view(sample_clip, *options, '--port', port):
        wait_for(browser, lambda: texts(browser, '#connection') == ['connected'])
        wait_for(browser, lambda: has_text(browser, '.badge-text', 'CONFIDENT'))
        assert len(browser.find_elements(By.CSS_SELECTOR, '.card')) == 1
    assert complaints(browser) == []
