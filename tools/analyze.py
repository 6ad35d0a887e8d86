#!/usr/bin/env python
"""Study data, trained models and losses. Each study writes numbers (JSON), a figure (PNG) and an offline page (HTML).

    python tools/analyze.py targets data/coco/annotations/instances_train2017.json     does reg_max cut anything off?
    python tools/analyze.py targets --config configs/demo/gfl_r18_fpn_shapes.py        the training data of a config
    python tools/analyze.py quality CONFIG CHECKPOINT CONFIG CHECKPOINT                score against true IoU
    python tools/analyze.py centerness CONFIG CHECKPOINT                               labels of positives
    python tools/analyze.py perturb CONFIG CHECKPOINT CONFIG CHECKPOINT --ap           boxes under feature noise
    python tools/analyze.py losses                                                     curves, with sliders
"""
import arguments


def parse_options():
    shared = arguments.Parser(add_help=False)
    shared.add_argument('--out', metavar='DIR', help='where the files go (default: work_dirs/analyze/STUDY)')
    shared.set_defaults(launcher='none', local_rank=None)
    of_config = arguments.Parser(add_help=False, parents=[shared])
    for option in ('--data-root', '--cfg-options'):
        more = dict(nargs='+', metavar='KEY=VALUE') if option == '--cfg-options' else {}
        of_config.add_argument(option, help='as in tools/train.py', **more)
    parser = arguments.Parser(description=__doc__)
    studies = parser.add_subparsers(dest='study', required=True)

    study = studies.add_parser('targets', parents=[of_config], help='how far sides of objects are from priors, and '
                               'what reg_max cuts off')
    study.add_argument('annotations', nargs='?', metavar='ANN', help='COCO-format annotation file; the images are not '
                       'needed (default: the training data of --config)')
    study.add_argument('--config', help='gives priors, assigner and test-time resize (default: the 1x config of '
                       'COCO)')
    study.add_argument('--strides', type=arguments.positive, nargs='+', metavar='PIXELS', help='strides of the levels')
    study.add_argument('--reg-max', type=arguments.positive, metavar='N', help='largest bin')
    study.add_argument('--octave-base-scale', type=arguments.positive, metavar='STRIDES', help='side of a prior')
    study.add_argument('--scale', nargs='+', metavar='W H', help='pixels to resize into, keeping the ratio; or none')

    for name, about in (('quality', 'predicted score against true IoU'),
                        ('centerness', 'centre-ness and IoU as labels of positives'),
                        ('perturb', 'boxes under feature noise')):
        study = studies.add_parser(name, parents=[of_config], help=about)
        study.add_argument('models', nargs='+', metavar='CONFIG CHECKPOINT', help='pairs to compare')
        study.add_argument('--images', type=arguments.positive, default=500, metavar='N',
                           help='how many images, the first of the test set (default: 500)')
        study.add_argument('--trust-checkpoint', action='store_true', help='as in tools/test.py')
        if name == 'perturb':
            study.add_argument('--ap', action='store_true', help='also measure the AP at each strength of the noise')
    studies.add_parser('losses', parents=[shared], help='FL, QFL, VFL, DFL and GFL as curves')
    return parser.parse_args()


def main():
    arguments.show(arguments.run('analyze', parse_options()))


if __name__ == '__main__':
    main()
