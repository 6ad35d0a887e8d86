#!/usr/bin/env python
"""Evaluate a detector.

    python tools/test.py configs/gfl/gfl_r50_fpn_1x_coco.py work_dirs/gfl_r50_fpn_1x_coco/epoch_12.pth
"""
import arguments


def parse_options():
    parser = arguments.parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    arguments.add_data(parser)
    arguments.add_image_size(parser)
    parser.add_argument('--out', metavar='FILE.pkl', help='also save the detections')
    parser.add_argument('--show-dir', metavar='DIR',
                        help='also save pictures of ground truth and detections to work_dir/<time>/DIR')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation (flip)')
    return parser.parse_args()


def main():
    arguments.run('test_and_report', parse_options())


if __name__ == '__main__':
    main()
