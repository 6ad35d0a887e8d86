#!/usr/bin/env python
"""Detect objects in images. Exit status 1 means that some inputs could not be read.

    python tools/predict.py work_dirs/gfl_lite0_fpn/best_coco_bbox_mAP_epoch_24.pth my/photos
    python tools/predict.py best.pth photo.jpg 'more/*.png' --out found --score-thr 0.4
    python tools/predict.py best.pth photo.jpg --json > found.json
"""
import contextlib
import json
import sys

import arguments


def parse_options():
    parser = arguments.Parser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('inputs', nargs='+', metavar='INPUT',
                        help='image files, folders (with their subfolders) and patterns such as "photos/*.jpg"')
    parser.add_argument('--out', metavar='FOLDER',
                        help='where pictures, a sheet of them, detections.json in COCO\'s format and detections.csv go '
                        '(default: work_dirs/predict, or a new folder beside it)')
    parser.add_argument('--json', action='store_true',
                        help='write one JSON object to the standard output, and no files unless --out names a folder')
    parser.add_argument('--no-pictures', dest='pictures', action='store_false', help='draw no pictures')
    arguments.add_detector(parser)
    parser.add_argument('--uncertainty', action='store_true',
                        help='also write and draw how far each side can be trusted: its standard deviation, its '
                        'distribution, and its interval if the checkpoint was calibrated (calibrate)')
    parser.add_argument('--ids', metavar='ANN', help='COCO annotation file whose image and category ids '
                        'detections.json takes, so that it can be evaluated')
    parser.add_argument('--batch-size', type=arguments.positive, default=8, metavar='IMAGES', help='(default: 8)')
    return parser.parse_args()


def main():
    options = parse_options()
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):  # other libraries print, too
        found = arguments.run('predict', options)
    arguments.show(json.dumps(found.content) if options.json else found.text)
    sys.exit(int(found.failed > 0))


if __name__ == '__main__':
    main()
