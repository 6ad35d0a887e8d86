#!/usr/bin/env python
"""Measure the plugin against MMDetection's own head, in turn and in one process.

    python tools/benchmark.py head                 the loss path, prediction, NMS and memory
    python tools/benchmark.py train --batch 2      whole training steps of a config with either head
    python tools/benchmark.py train FAST --against stock --device cuda     against MMDetection as it comes
    python tools/benchmark.py infer --batch 1      inference from images to boxes
    python tools/benchmark.py detect CHECKPOINT    gfl_plugin.Detector against its network alone
    python tools/benchmark.py eval                 COCO's metric by faster-coco-eval and by pycocotools
"""
import arguments


def parse_options():
    shared = arguments.Parser(add_help=False)
    shared.add_argument('--device', default='cpu', help='cpu or cuda')
    shared.add_argument('--batch', type=int, default=4, help='images in a batch')
    shared.add_argument('--size', type=int, nargs=2, default=(800, 1344), metavar=('H', 'W'), help='pixels')
    shared.add_argument('--gts', type=int, nargs='+', default=(10, 60, 500), help='objects in an image')
    shared.add_argument('--amp', action='store_true', help='bf16: bf16 logits (head), or autocast (train, infer)')
    shared.add_argument('--rounds', type=int, default=20, help='pairs to measure')
    shared.add_argument('--json', metavar='FILE', help='also write the figures to a file')
    parser = arguments.Parser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('head', parents=[shared])
    for name in ('train', 'infer'):
        command = commands.add_parser(name, parents=[shared])
        command.add_argument('config', nargs='?', default='gfl/gfl_r50_fpn_1x_coco.py', help='config file')
        command.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='as in tools/train.py')
        if name == 'train':
            command.add_argument('--against', choices=['same', 'stock', 'stock-amp'], default='same',
                                 help="MMDetection's head in the same setting, or in MMDetection's own: fp32 "
                                 "(convolutions in TF32, PyTorch's default), or its AMP (fp16)")
        command.set_defaults(data_root=None, launcher='none', no_pretrained=True)
    command = commands.add_parser('detect', parents=[shared])
    command.add_argument('checkpoint', help='checkpoint that carries its config')
    command = commands.add_parser('eval', parents=[shared])
    command.add_argument('--images', type=int, default=5000)
    return parser.parse_args()


def main():
    arguments.run('benchmark', parse_options())


if __name__ == '__main__':
    main()
