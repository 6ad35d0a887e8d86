"""The options that all tools share. Nothing here imports torch, so `--help` answers at once."""
import argparse
import os
import re
import sys
from typing import Optional


class Parser(argparse.ArgumentParser):
    """A parser whose help keeps the lines of the description. The help of ``gfl train`` says so in its examples."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{'formatter_class': argparse.RawDescriptionHelpFormatter, **options})

    def format_help(self) -> str:
        text = super().format_help()
        if not self.prog.startswith('gfl '):
            return text
        return re.sub(r'(python )?tools/([a-z]+)\w*\.py', r'gfl \2', text)  # gfl check runs tools/check_dataset.py


def parser(doc: str, config: Optional[str] = None) -> Parser:
    """Make a parser with the shared options. ``doc`` is the tool's docstring, ``config`` the default config file."""
    result = Parser(description=doc)
    result.add_argument('config', nargs='?' if config else None, default=config,
                        help='config file, or the name of a config of this package, such as gfl/gfl_r50_fpn_1x_coco')
    result.add_argument('--work-dir', help='where results and logs go (default: work_dirs/<config>)')
    result.add_argument('--data-root', help='root of the data set, instead of the one in the config')
    result.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE',
                        help='settings that override the config, such as optim_wrapper.optimizer.lr=0.005; a list is '
                        'key="[a,b]" or key=a,b')
    result.add_argument('--trust-checkpoint', action='store_true',
                        help='load the checkpoint that this command names or resumes with full pickle: that file can '
                        'then run any code on this machine; other files, such as the weights of a backbone, cannot')
    result.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what started this process, if several processes train together')
    result.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)  # torch.distributed.launch
    return result


def add_data(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Options of a data set of one's own."""
    parser.add_argument('--data', metavar='PATH', required=required,
                        help='data set in COCO, YOLO or Pascal VOC layout, a folder or the file that describes it, '
                        'instead of the one of a config; the classes are those of the data')
    parser.add_argument('--val-share', type=float, metavar='SHARE', help='share of the training images of --data to '
                        'hold out for validation, if it has no validation images (default: 0.2)')


def add_detector(parser: argparse.ArgumentParser) -> None:
    """How to load a detector from a checkpoint that carries its config, and what it leaves out."""
    parser.add_argument('--score-thr', type=share, metavar='SCORE',
                        help='leave out detections with a lower score (default: what the checkpoint recommends)')
    parser.add_argument('--config', metavar='FILE', help='the config of a checkpoint that does not carry its own')
    parser.add_argument('--device', default='auto', help='such as cpu or cuda:1 (default: a GPU if there is one)')
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='load the checkpoint with full pickle: the file can then run any code on this machine')


def add_image_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--image-size', type=positive, metavar='PIXELS',
                        help='side of the square that images are resized into, instead of the scale in the config')


def positive(text: str) -> int:
    """Parse an option that is a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is not positive')
    return number


def share(text: str) -> float:
    """Parse an option that is a number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not between 0 and 1')
    return number


def show(text: str) -> None:
    """Print text, whatever characters the terminal knows, and end quietly if the reader of a pipe has gone."""
    sys.stdout.reconfigure(errors='backslashreplace')
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits


def run(tool: str, options: argparse.Namespace):
    """Call what the package does for a tool, and return its result. A missing or broken stack is one paragraph, too."""
    try:
        from gfl_plugin import engine
    except ImportError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:  # the import takes seconds
        print('Ctrl-C ended the run', file=sys.stderr)
        sys.exit(130)
    with engine.reporting():
        return getattr(engine, tool)(options)
