"""What the command lines in ``tools/`` do."""
from .analyze import analyze
from .benchmark import benchmark
from .calibrate import calibrate
from .check_dataset import check_dataset
from .config import Options, configs, find_config, list_configs, load_config
from .predict import predict
from .report import report
from .reproduce import reproduce
from .run import demo, reporting, test, train
from .summary import test_and_report, train_and_report

__all__ = ['Options', 'analyze', 'benchmark', 'calibrate', 'check_dataset', 'configs', 'demo', 'find_config',
           'list_configs', 'load_config', 'predict', 'report', 'reporting', 'reproduce', 'test', 'test_and_report',
           'train', 'train_and_report']
