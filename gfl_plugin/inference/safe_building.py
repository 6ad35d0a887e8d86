"""Build from a stranger's card: only types that are known to be harmless, within the memory of its own weights.

MMEngine's registries import any dotted name that they do not know, so ``dict(type='os.system')`` is a call. Types of
MMDetection read files too: a knowledge distillation executes the config of its teacher. So a list says what may be
built.
"""
import contextlib
import threading
from typing import Any, Collection, Iterator, Optional
from unittest import mock

import torch
from mmengine.registry import Registry
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import SetupError

# Modules whose classes may be built. None of these constructors opens a file, a connection or a process, or evaluates
# text. Not here, because they do: detectors.kd_one_stage, lad, glip, d2_wrapper, backbones.detectors_resnet,
# dense_heads.atss_vlfusion_head, language_models, task_modules.tracking.
MODULES = {
    'gfl_plugin': 'backbones.detector backbones.timm_backbone heads.gfl_head heads.gflv2_head assigners.atss '
                  'assigners.task_aligned losses.distribution_focal losses.focal losses.gaussian '
                  'losses.generalized_focal losses.iou_loss losses.quality_focal losses.varifocal',
    'mmdet.models.detectors': 'atss autoassign ddod fcos fovea fsaf gfl nasfcos paa retinanet rtmdet single_stage tood '
                              'vfnet',
    'mmdet.models.backbones': 'csp_darknet cspnext darknet efficientnet hourglass hrnet mobilenet_v2 pvt regnet '
                              'res2net resnest resnet resnext swin',
    'mmdet.models.necks': 'bfp channel_mapper cspnext_pafpn dilated_encoder dyhead fpg fpn fpn_carafe fpn_dropblock '
                          'hrfpn nas_fpn nasfcos_fpn pafpn ssh yolox_pafpn',
    'mmdet.models.dense_heads': 'anchor_free_head anchor_head atss_head autoassign_head ddod_head fcos_head fovea_head '
                                'free_anchor_retina_head fsaf_head gfl_head ld_head nasfcos_head paa_head retina_head '
                                'retina_sepbn_head rtmdet_head tood_head vfnet_head',
    'mmdet.models.layers': 'brick_wrappers dropblock normed_predictor positional_encoding',
    'mmdet.models.losses': 'ae_loss balanced_l1_loss cross_entropy_loss dice_loss eqlv2_loss focal_loss '
                           'gaussian_focal_loss gfocal_loss ghm_loss iou_loss kd_loss mse_loss seesaw_loss '
                           'smooth_l1_loss varifocal_loss',
    'mmdet.models.task_modules.coders': 'bucketing_bbox_coder delta_xywh_bbox_coder distance_point_bbox_coder '
                                        'legacy_delta_xywh_bbox_coder pseudo_bbox_coder tblr_bbox_coder '
                                        'yolo_bbox_coder',
    'mmdet.models.task_modules.prior_generators': 'anchor_generator point_generator',
    'mmdet.models.task_modules.assigners': 'iou2d_calculator',
    'mmdet.models.data_preprocessors': 'data_preprocessor',
    'mmcv.cnn.bricks': 'activation context_block conv2d_adaptive_padding conv_module conv_ws drop '
                       'generalized_attention hsigmoid non_local swish upsample wrappers',
    'mmcv.ops': 'carafe deform_conv modulated_deform_conv saconv sync_bn',
    'mmengine': 'model.base_model.data_preprocessor utils.dl_utils.parrots_wrapper',
    'torch.nn.modules': 'activation batchnorm conv instancenorm linear normalization padding upsampling',
}
ALLOWED_MODULES = frozenset(f'{package}.{name}' for package, names in MODULES.items() for name in names.split())
# Transforms that give the same image every time.
ALLOWED_TRANSFORMS = frozenset({
    *(('mmdet.datasets.transforms.transforms', name) for name in ('Resize', 'FixScaleResize', 'FixShapeResize', 'Pad')),
    *(('mmcv.transforms.processing', name) for name in ('Resize', 'Pad', 'CenterCrop', 'Normalize'))})

_lock = threading.RLock()


@contextlib.contextmanager
def building_only_allowed(source: str, allow: Collection[type] = ()) -> Iterator[None]:
    """Within it, this thread gets from MMEngine's registries only registered types that are allowed.

    Nothing is imported by its name. Other threads get what they always get.

    Args:
        source: Name of the checkpoint, for the message.
        allow: Classes that are allowed besides :data:`MODULES` and :data:`ALLOWED_TRANSFORMS`.

    Raises:
        SetupError: A type is not registered, or not allowed.
    """
    with _lock:
        builder, get = threading.get_ident(), Registry.get

        def get_allowed(registry: Registry, key: str) -> Any:
            if threading.get_ident() != builder:
                return get(registry, key)
            found = _find_registered(registry, key)
            if found is None or not (found in allow or _is_allowed(found)):
                raise SetupError(f'The card of {source} names the type {str(key)[:80]!r}, which a card may not build. '
                                 'If you trust it, give the config of the model beside the checkpoint: --config '
                                 'CONFIG, or config=CONFIG in Python')
            return found

        with mock.patch.object(Registry, 'get', get_allowed):
            yield


def _find_registered(registry: Registry, key: str) -> Optional[Any]:
    """Look a type up as ``Registry.get`` does, but only among what is registered."""
    if not isinstance(key, str):
        return None
    scope, name = Registry.split_scope_key(key)
    if scope is not None and scope != registry.scope:
        registry = registry._get_root_registry()._search_child(scope)
    if registry is None:
        return None
    registry.import_from_location()  # a list of modules in the code of its package
    while registry is not None:
        if name in registry.module_dict:
            return registry.module_dict[name]
        registry = registry.parent if scope is None else None
    return None


def _is_allowed(found: Any) -> bool:
    return isinstance(found, type) and (found.__module__ in ALLOWED_MODULES
                                        or (found.__module__, found.__name__) in ALLOWED_TRANSFORMS)


class MemoryLimit(TorchDispatchMode):
    """Within it, all new tensors of this thread together may take a number of bytes. It stops before it is exceeded.

    The size of each result is computed on PyTorch's meta device first.

    Args:
        source: Name of the checkpoint, for the message.
        most_bytes, most_tensors: Of all results together, freed or not.

    Raises:
        SetupError: A limit would be exceeded.
    """

    def __init__(self, source: str, most_bytes: int, most_tensors: int) -> None:
        super().__init__()
        self.source, self.bytes_left, self.tensors_left = source, most_bytes, most_tensors

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if not any(result.alias_info for result in func._schema.returns):  # neither a view nor in place
            self._spend(func, args, kwargs)
        return func(*args, **kwargs)

    def _spend(self, func, args: tuple, kwargs: dict) -> None:
        args, kwargs = tree.tree_map_only(Tensor, _without_data, (args, kwargs))
        if any(argument.name == 'device' for argument in func._schema.arguments):
            kwargs = dict(kwargs, device='meta')
        try:
            results = tree.tree_leaves(func(*args, **kwargs))
        except (NotImplementedError, RuntimeError, TypeError):  # the size depends on the data, or the call is wrong
            return
        for result in results:
            if isinstance(result, Tensor):
                self.bytes_left -= result.numel() * result.element_size()
                self.tensors_left -= 1
        if min(self.bytes_left, self.tensors_left) < 0:
            raise SetupError(f'The card of {self.source} describes a model that is far larger than the weights in the '
                             'file')


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device='meta')
