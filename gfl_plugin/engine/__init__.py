"""What the command lines in ``tools/`` do."""
from ..datasets.check import check_dataset
from .analyze import analyze
from .benchmark import benchmark
from .config import Options, load_config
from .reproduce import reproduce
from .run import demo, reporting, test, train

__all__ = ['Options', 'analyze', 'benchmark', 'check_dataset', 'demo', 'load_config', 'reporting', 'reproduce', 'test',
           'train']
