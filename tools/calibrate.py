#!/usr/bin/env python
"""Fit an interval for each side of a box, and store it in the checkpoint.

    python tools/calibrate.py work_dirs/gfl_lite0_fpn/best_coco_bbox_mAP_epoch_24.pth --data my/pictures --coverage 0.9

The detector must not have trained on the images. A random half of them fits the intervals, and the other half measures
them.
"""
import arguments


def parse_options():
    parser = arguments.Parser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint file; its card gets the calibration')
    arguments.add_data(parser, required=True)
    parser.add_argument('--split', choices=['train', 'val', 'test'],
                        help='images of --data to calibrate on (default: test if there is one, else val, which may '
                        'have chosen the best checkpoint)')
    parser.add_argument('--coverage', type=float, default=0.9, metavar='SHARE',
                        help='share of the true sides that should lie in their intervals (default: 0.9)')
    arguments.add_detector(parser)
    parser.add_argument('--halves', type=arguments.positive, metavar='TIMES',
                        help='also report the means over so many random halves')
    parser.add_argument('--seed', type=int, default=0, help='of the half that fits (default: 0)')
    parser.add_argument('--out', metavar='FOLDER', help='where calibration.json and reliability.png go (default: '
                        'work_dirs/calibrate, or a new folder beside it)')
    parser.add_argument('--no-store', dest='store', action='store_false', help='leave the checkpoint as it is')
    return parser.parse_args()


def main():
    arguments.show(arguments.run('calibrate', parse_options()).text)


if __name__ == '__main__':
    main()
