"""What the command lines in ``tools/`` do."""
from .config import Options, load_config
from .run import reporting, test, train

__all__ = ['Options', 'load_config', 'reporting', 'test', 'train']
