"""The weights that ``tools/train.py --weights`` names."""
import os
from typing import Dict

import mmdet
import mmengine

from ..errors import SetupError

METAFILE = os.path.join(os.path.dirname(mmdet.__file__), '.mim', 'configs', 'gfl', 'metafile.yml')


def find_weights(choice: str) -> str:
    """Find the checkpoint that ``--weights NAME|FILE|URL`` names.

    Returns:
        A URL, or a path to a file that need not exist.

    Raises:
        SetupError: The choice is none of the three.
    """
    published = published_weights()
    if choice in published:
        return published[choice]
    if '://' in choice or os.sep in choice or os.path.isfile(choice) or choice.endswith(('.pth', '.pt')):
        return choice
    names = ', '.join(published) or f'a published name (MMDetection lists them in {METAFILE}, which does not exist)'
    raise SetupError(f'--weights {choice} is unknown. It takes a checkpoint file, a URL, none, or one of {names}')


def published_weights() -> Dict[str, str]:
    """Read the names and URLs of MMDetection's published GFL checkpoints from the list that MMDetection installs."""
    if not os.path.isfile(METAFILE):
        return {}
    return {model['Name']: model['Weights'] for model in mmengine.load(METAFILE)['Models'] if 'Weights' in model}
