#!/usr/bin/env python
"""Write a page about a trained detector: did it learn, where does it fail, and which boxes can be trusted?

    python tools/report.py work_dirs/gfl_lite0_fpn
    python tools/report.py best.pth --data my/pictures --split test --out report.html

The page is one file that needs no network.
"""
import arguments


def parse_options():
    parser = arguments.Parser(description=__doc__)
    parser.add_argument('run', metavar='RUN_FOLDER_OR_CHECKPOINT',
                        help='folder of a training, whose best checkpoint is taken, or a checkpoint')
    arguments.add_data(parser)
    parser.add_argument('--split', choices=['train', 'val', 'test'], help='images to evaluate on (default: those that '
                        'the training validated on; of --data, val)')
    arguments.add_detector(parser)
    parser.add_argument('--out', metavar='FILE.html',
                        help='the page (default: report.html in the folder of the run or of the checkpoint)')
    return parser.parse_args()


def main():
    arguments.show(arguments.run('report', parse_options()))


if __name__ == '__main__':
    main()
