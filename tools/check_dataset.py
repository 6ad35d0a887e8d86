#!/usr/bin/env python
"""List every problem of a data set: in its annotations, its boxes and its image files.

    python tools/check_dataset.py --data my/pictures --show work_dirs/sheets       in COCO, YOLO or Pascal VOC layout
    python tools/check_dataset.py data/coco/annotations/instances_train2017.json --images data/coco/train2017

Exit status: 1 if training would suffer, 2 for a mistake in the command line, else 0.
"""
import sys

import arguments


def parse_options():
    parser = arguments.Parser(description=__doc__)
    parser.add_argument('annotations', nargs='?', metavar='ANN', help='annotation file in COCO format')
    parser.add_argument('--images', metavar='DIR', help='folder of the image files of ANN')
    arguments.add_data(parser)
    parser.add_argument('--show', metavar='FOLDER', help='draw the boxes of --data on a sheet of images for each split')
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
    options = parser.parse_args()
    if (options.data is None) == (options.annotations is None):
        parser.error('name an annotation file, with --images, or --data')
    if (options.images is None) != (options.annotations is None):
        parser.error('ANN and --images go together: --data finds its images by itself')
    if options.data is None and (options.show or options.val_share is not None):
        parser.error('--show and --val-share need --data')
    return options


def main():
    found = arguments.run('check_dataset', parse_options())
    arguments.show(found.text)
    sys.exit(int(found.suffers))


if __name__ == '__main__':
    main()
