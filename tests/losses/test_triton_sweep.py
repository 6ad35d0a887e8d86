"""The sweep in Triton gives what the plain one gives: on a GPU, or by Triton's interpreter (TRITON_INTERPRET=1)."""
import os
import subprocess
import sys

import pytest
import torch
from reference import assert_close

from gfl_plugin.losses import sweep
from gfl_plugin.losses.focal import FocalLoss
from gfl_plugin.losses.quality_focal import on_maps
from gfl_plugin.losses.sweep import ClassCells, loss_of_map

pytest.importorskip('triton', reason='needs Triton, which comes with PyTorch for CUDA; by itself it takes 640 MB')
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cpu' if INTERPRETED else 'cuda'
