"""Hooks for MMEngine's runner."""
from .checkpoint import CheckpointHook
from .checks import CheckSetupHook
from .exact_resume import ResumeHook
from .history import HistoryHook
from .interrupt import InterruptHook
from .layout import ChannelsLastHook
from .loss_guard import LossGuardHook
from .pictures import PictureHook

__all__ = ['ChannelsLastHook', 'CheckSetupHook', 'CheckpointHook', 'HistoryHook', 'InterruptHook', 'LossGuardHook',
           'PictureHook', 'ResumeHook']
