"""What the command lines in ``tools/`` do."""
from ..datasets.check import check_dataset
from .config import Options, load_config
from .measure import benchmark
from .run import demo, reporting, test, train

__all__ = ['Options', 'benchmark', 'check_dataset', 'demo', 'load_config', 'reporting', 'test', 'train']
