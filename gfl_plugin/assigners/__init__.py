"""Assignment of ground truths to priors."""
from .atss import Assignment, ATSSAssigner

__all__ = ['ATSSAssigner', 'Assignment']
