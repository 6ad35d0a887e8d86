"""Fold batch normalisations into the convolutions before them: the same detector, with fewer passes over its maps."""
from typing import List, Tuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3  # of the largest logit; rounding changes less than a thousandth of this
SIDE = 128  # of the image that both are compared on, pixels: a multiple of every stride

Replaced = List[Tuple[nn.Module, str, nn.Module]]  # the parent, the name of the child, and the child that was there


def fold_batch_norms(model: nn.Module) -> int:
    """Fold batch normalisations in place, and undo it if the model's maps change.

    A module's children need not run in the order in which they are listed. So the maps are computed before and after.
    Some models, such as two-stage detectors, compute no maps from an image alone. They stay as they are.

    Args:
        model: A detector in evaluation mode.

    Returns:
        Number of batch normalisations that are folded.
    """
    replaced: Replaced = []
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()).device)
    try:
        before = _maps(model, image)
    except Exception:  # a model of another project can raise anything
        return 0
    for module in list(model.modules()):
        _fold_children(module, replaced)
    after = _maps(model, image)
    if not all(torch.allclose(a, b, 0, TOLERANCE * float(a.abs().max())) for a, b in zip(before, after)):
        for parent, name, child in reversed(replaced):
            setattr(parent, name, child)
        replaced = []
    return len(replaced) // 2


@torch.inference_mode()
def _maps(model: nn.Module, image: torch.Tensor) -> List[torch.Tensor]:
    return [one for maps in model(image, mode='tensor') for one in maps]


def _fold_children(module: nn.Module, replaced: Replaced) -> None:
    conv_name = None
    for name, child in list(module.named_children()):
        if type(child) is nn.Conv2d:
            conv_name = name
        elif conv_name is not None and _is_norm_of(child, getattr(module, conv_name)):
            conv = getattr(module, conv_name)
            # timm's layers normalise and activate.
            rest = nn.Sequential(child.drop, child.act) if _activates(child) else nn.Identity()
            for replaced_name, new in ((conv_name, fuse_conv_bn_eval(conv, child)), (name, rest)):
                replaced.append((module, replaced_name, getattr(module, replaced_name)))
                setattr(module, replaced_name, new)
            conv_name = None
        elif not isinstance(child, nn.Identity):
            conv_name = None


def _is_norm_of(child: nn.Module, conv: nn.Conv2d) -> bool:
    return (type(child) in (nn.BatchNorm2d, nn.SyncBatchNorm) or _activates(child)) and \
        child.num_features == conv.out_channels and child.running_mean is not None


def _activates(child: nn.Module) -> bool:
    return type(child).__name__ == 'BatchNormAct2d'
