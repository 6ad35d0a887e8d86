"""The measurements of :mod:`gfl_plugin.benchmark`, from a command line to a table and a JSON file."""
import json
from typing import Dict, List

import torch
from mmengine.registry import init_default_scope

from ..benchmark import detector, evaluation, head, machine, models
from ..benchmark.timing import Row, table
from ..errors import SetupError
from .config import Options, load_config


def benchmark(options: Options) -> Dict[str, object]:
    """Measure as ``tools/benchmark.py`` says, print a table, and write it where ``--json`` says.

    Returns:
        The content of the JSON file.

    Raises:
        SetupError: PyTorch does not find the device, or a measurement cannot be made on it.
    """
    if options.device.startswith('cuda') and not torch.cuda.is_available():
        raise SetupError(f'--device {options.device} was asked for, and PyTorch {torch.__version__} finds no CUDA')
    init_default_scope('mmdet')
    rows = _measure(options)
    result = dict(command=options.command, options={k: v for k, v in vars(options).items() if k != 'json'},
                  machine=machine.describe_machine(options.device), rows=[row._asdict() for row in rows])
    print('\n'.join(f'{key}: {value}' for key, value in result['machine'].items()))
    print(table(rows))
    if options.json:
        with open(options.json, 'w') as file:
            json.dump(result, file, indent=1)
    return result


def _measure(options: Options) -> List[Row]:
    if options.command == 'eval':
        return evaluation.compare_evaluation(options.images, options.rounds)
    if options.command == 'detect':
        return detector.compare_detector(options.checkpoint, options.device, options.rounds)
    shared = dict(device=options.device, batch=options.batch, size=tuple(options.size), rounds=options.rounds,
                  amp=options.amp)
    if options.command == 'head':
        return head.compare_head(gts=options.gts, **shared)
    shared.update(config=load_config(options), count=options.gts[0])
    if options.command == 'infer':
        return models.compare_inference(**shared)
    return models.compare_training(against=options.against, **shared)
