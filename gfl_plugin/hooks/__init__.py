"""Hooks for MMEngine's runner."""
from .checkpoint import CheckpointHook
from .checks import CheckSetupHook
from .history import HistoryHook
from .interrupt import InterruptHook
from .layout import ChannelsLastHook
from .loss_guard import LossGuardHook
from .resume import ResumeHook

__all__ = ['ChannelsLastHook', 'CheckSetupHook', 'CheckpointHook', 'HistoryHook', 'InterruptHook', 'LossGuardHook',
           'ResumeHook']
