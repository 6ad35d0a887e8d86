"""Third axis of the head: which priors are trained towards which ground truth. One file per assigner."""
from .atss import ATSSAssigner
from .task_aligned import TaskAlignedAssigner

__all__ = ['ATSSAssigner', 'TaskAlignedAssigner']
