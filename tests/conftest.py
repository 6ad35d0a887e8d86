"""Shared fixtures. Real images are used if GFL_TINY_COCO or --tiny-coco names a folder in COCO's layout."""
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

import gfl_plugin  # noqa: F401  (makes mmdet's models importable)


def pytest_addoption(parser):
    parser.addoption('--tiny-coco', default=os.environ.get('GFL_TINY_COCO'),
                     help='folder with annotations/instances_{train,val}2017.json and the images')


@pytest.fixture
def tiny_coco(request):
    root = request.config.getoption('--tiny-coco')
    if not root or not os.path.isdir(root):
        pytest.skip('needs real images: set GFL_TINY_COCO or --tiny-coco to a small COCO-format data set')
    return root


@pytest.fixture
def exact():
    """Compute fp32 in fp32; by default cuDNN uses TF32 instead."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request, exact):
    """Run a test on a CPU and, if there is one, on a GPU."""
    if request.param == 'cuda' and not torch.cuda.is_available():
        pytest.skip('needs a CUDA device')
    return request.param


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    init_default_scope('mmdet')  # the default_scope of every config


@pytest.fixture
def log(caplog):
    """A function that returns the warnings and errors of MMEngine's logger."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # tests/reference.py raises the level to ERROR
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)


CHROMIUM = ('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
            '--disable-component-update', '--disable-sync')


@pytest.fixture(scope='session')
def browser():
    """A headless Chromium, by playwright's sync API."""
    api = pytest.importorskip('playwright.sync_api', reason='needs playwright: pip install playwright')
    program = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if program is None:
        pytest.skip('needs Chromium: apt-get install chromium')
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a file in a new window. The test fails at its end if the page did something it must not.

    The page must write no error to the console, raise no exception, and send no request. ``trouble`` of the
    function's result lists what it did; ``page`` is playwright's page.
    """
    opened = []

    def open_file(path, width: int = 1440, dark: bool = False) -> SimpleNamespace:
        context = browser.new_context(viewport=dict(width=width, height=900), color_scheme='dark' if dark else 'light')
        page, trouble = context.new_page(), []
        page.on('console', lambda said: trouble.append(said.text) if said.type == 'error' else None)
        page.on('pageerror', lambda error: trouble.append(str(error)))
        page.on('request', lambda sent: None if sent.url.split(':')[0] in ('file', 'data', 'blob', 'about')
                else trouble.append(f'request of {sent.url}'))
        opened.append((context, trouble))
        page.goto(Path(path).resolve().as_uri(), wait_until='load')
        return SimpleNamespace(page=page, trouble=trouble)

    yield open_file
    for context, _ in opened:
        context.close()
    assert not any(trouble for _, trouble in opened), [trouble for _, trouble in opened]
