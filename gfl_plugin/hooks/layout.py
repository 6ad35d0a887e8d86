"""Set the memory layout of the model."""
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Convert the weights to channels-last before training, validation and test. Feature maps follow the weights.

    Tensor cores use this layout for half-precision convolutions, so no conversion is needed, and the plugin's losses
    read and write maps in any layout. Values, checkpoints and state dicts stay the same.
    """

    def before_train(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)

    before_val = before_test = before_train
