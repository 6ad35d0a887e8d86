"""Hooks of MMEngine's runner."""
from .checks import CheckSetupHook
from .layout import ChannelsLastHook

__all__ = ['ChannelsLastHook', 'CheckSetupHook']
