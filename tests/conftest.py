"""Shared fixtures. Real images are used if GFL_TINY_COCO or --tiny-coco names a folder in COCO's layout."""
import logging
import os

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
