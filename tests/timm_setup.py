"""Tests of timm skip where it is not installed."""
import importlib.util

import pytest


def need_timm() -> None:
    for name in ('timm', 'torchvision'):  # an import would hide that one of them is there and broken
        if importlib.util.find_spec(name) is None:
            pytest.skip('needs timm and torchvision, each installed without dependencies')
