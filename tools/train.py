#!/usr/bin/env python
"""Train a detector. Exit status 75 means that a signal ended the run. The run is saved, and --resume goes on with it.

    python tools/train.py configs/gfl/gfl_r50_fpn_1x_coco.py --data-root data/coco
    python tools/train.py configs/gfl/gfl_r50_fpn_1x_coco.py --data my/pictures --epochs 24 --image-size 640
    python tools/train.py configs/gfl/gfl_r50_fpn_1x_coco.py --resume
    python tools/train.py configs/gfl/gfl_r50_fpn_1x_coco.py --weights gfl_r50_fpn_ms-2x_coco
"""
import arguments


def parse_options():
    parser = arguments.parser(__doc__)
    arguments.add_data(parser)
    parser.add_argument('--epochs', type=arguments.positive,
                        help='instead of those of the config; the schedule follows')
    parser.add_argument('--batch-size', type=arguments.positive, metavar='IMAGES',
                        help='per device, instead of the one in the config')
    arguments.add_image_size(parser)
    parser.add_argument('--amp', action='store_true', help='mixed precision (CUDA)')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate by the batch size over all devices')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint; without a name, from the latest one of this config')
    start = parser.add_mutually_exclusive_group()
    start.add_argument('--weights', metavar='NAME|FILE|URL|none',
                       help='the checkpoint to start from: a GFL checkpoint that MMDetection published, such as '
                       'gfl_r50_fpn_ms-2x_coco, a file or a URL; none starts from scratch')
    start.add_argument('--no-pretrained', action='store_true', help='the same as --weights none')
    return parser.parse_args()


def main():
    arguments.run('train_and_report', parse_options())


if __name__ == '__main__':
    main()
