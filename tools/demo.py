#!/usr/bin/env python
"""Train a small GFL detector on generated images of shapes, evaluate it, and write a report and pictures.

    python tools/demo.py
"""
import arguments


def parse_options():
    parser = arguments.parser(__doc__, 'demo/gfl_r18_fpn_shapes.py')
    parser.set_defaults(amp=False, auto_scale_lr=False, resume=None, no_pretrained=False, out=None, show_dir=None,
                        tta=False)
    return parser.parse_args()


def main():
    arguments.run('demo', parse_options())


if __name__ == '__main__':
    main()
