"""Studies of data, models and losses. Each file turns data into numbers, and the numbers into a figure."""
from . import centerness, charts, losses, perturb, quality, targets

__all__ = ['centerness', 'charts', 'losses', 'perturb', 'quality', 'targets']
