#!/usr/bin/env python
"""List every problem of a COCO-format data set: in its annotation file, its boxes and its image files.

    python tools/check_dataset.py data/coco/annotations/instances_train2017.json --images data/coco/train2017

Exit status: 1 if training would suffer, 2 for a mistake in the command line, else 0.
"""
import argparse
import sys

import arguments


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', metavar='ANN', help='annotation file')
    parser.add_argument('--images', metavar='DIR', required=True, help='folder of the image files')
    parser.add_argument('--json', metavar='FILE', help='also write the report, with every entry, to a file')
    parser.add_argument('--reg-max', type=arguments.positive, default=16, help='largest bin of the head (default: 16)')
    parser.add_argument('--strides', type=arguments.positive, nargs='+', default=(8, 16, 32, 64, 128), metavar='PIXELS',
                        help='strides of the levels (default: 8 16 32 64 128)')
    parser.add_argument('--scale', type=arguments.positive, nargs=2, default=(1333, 800), metavar=('LONG', 'SHORT'),
                        help='images are resized to fit in these sides (default: 1333 800)')
    parser.add_argument('--prior', type=arguments.positive, default=8, metavar='STRIDES',
                        help='side of a prior, the config\'s octave_base_scale (default: 8)')
    parser.add_argument('--tolerance', type=float, default=0.01, metavar='SHARE',
                        help='share of images or boxes that training may lose (default: 0.01)')
    parser.add_argument('--threads', type=arguments.positive,
                        help='files to open at the same time (default: one per processor)')
    return parser.parse_args()


if __name__ == '__main__':
    report = arguments.run('check_dataset', parse_options())
    print(report.table())
    sys.exit(int(report.suffers))
