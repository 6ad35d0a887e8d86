"""Studies of data, models and losses: one file a study, from data to numbers, and from numbers to a figure."""
from . import centerness, charts, losses, perturb, quality, targets

__all__ = ['centerness', 'charts', 'losses', 'perturb', 'quality', 'targets']
