"""Hooks of a training or evaluation run."""
from .checks import CheckSetupHook

__all__ = ['CheckSetupHook']
