#!/usr/bin/env python
"""Train the rows of one of the paper's tables with several seeds, and write the table. If stopped, it goes on.

    python tools/reproduce.py table3                            QFL x DFL, on the shapes
    python tools/reproduce.py quality --data-root data/coco     what a score means, on COCO

Tables: table3, quality, box, beta, n. The folder of each run, table.md and table.json go to work_dirs/reproduce/TABLE.
"""
import arguments


def parse_options():
    parser = arguments.Parser(description=__doc__)
    parser.add_argument('table', help='table3, quality, box, beta or n')
    parser.add_argument('--seeds', type=int, default=3, help='runs of each row, with the seeds 0, 1, ...')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='train these rows alone, such as joint_dirac or '
                        'beta_2.5, so that several processes or machines can share a table')
    parser.add_argument('--work-dir', help='where results go (default: work_dirs/reproduce/TABLE)')
    parser.add_argument('--data-root', help='root of COCO, to train on it instead of the shapes')
    for option in ('--cfg-options', '--amp', '--auto-scale-lr', '--no-pretrained'):
        more = dict(nargs='+', metavar='KEY=VALUE') if option == '--cfg-options' else dict(action='store_true')
        parser.add_argument(option, help='as in tools/train.py', **more)
    return parser.parse_args()


def main():
    arguments.run('reproduce', parse_options())


if __name__ == '__main__':
    main()
