"""How the model lies in memory."""
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lay the weights out channels-last before training, validation and test; feature maps follow the weights.

    Convolutions in half precision on tensor cores work in this layout anyway and need not convert, and the plugin's
    losses read and write the maps as they are. Values, checkpoints and state dicts stay the same.
    """

    def before_train(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)

    before_val = before_test = before_train
