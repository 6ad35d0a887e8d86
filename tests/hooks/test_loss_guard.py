"""A loss that stays not finite ends the run; a gradient that overflows skips the step."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from tool_runs import log, on_shapes, scalars

from gfl_plugin import engine
from gfl_plugin.errors import RunError
from gfl_plugin.hooks import LossGuardHook

EACH_ITERATION = ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=1',
                  'default_hooks.checkpoint.max_keep_ckpts=1']
DIVERGES = ['model.bbox_head.loss_bbox.loss_weight=1e39', 'optim_wrapper.clip_grad=None',
            'default_hooks.loss_guard.patience=3']


def test_a_run_that_diverges_ends_with_a_report(tmp_path):
    """The run has one good checkpoint, and would replace it after each iteration."""
    run = tmp_path / 'run'
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run)
    engine.train(on_shapes(*arguments, settings=[*EACH_ITERATION, 'train_cfg.max_epochs=1', 'train_cfg.val_begin=99']))
    good = (run / 'iter_4.pth').read_bytes()
    said = r'3 iterations in a row.*iteration 5 \(loss (nan|inf).*images \d+\.png.*; learning rate [\d.]+.*; gradient'
    with pytest.raises(RunError, match=said):
        engine.train(on_shapes(*arguments, '--resume', settings=[*EACH_ITERATION, *DIVERGES]))
    assert max(scalars(run)) == 6, 'the third bad iteration should end the run before it is logged'
    assert [file.name for file in run.glob('*.pth')] == ['iter_4.pth'], 'broken weights should not replace good ones'
    assert (run / 'iter_4.pth').read_bytes() == good
    assert (run / 'last_checkpoint').read_text() == str(run / 'iter_4.pth')
    assert log(run).count('The loss is not finite in iteration 5') == 1, 'the log should say so once'


def runner_with(scaler=None):
    hub = MessageHub.get_instance(f'guard_{id(object())}')
    wrapper = SimpleNamespace(get_lr=lambda: dict(lr=[0.1]), **(dict(loss_scaler=scaler) if scaler else {}))
    return SimpleNamespace(optim_wrapper=wrapper, message_hub=hub, iter=0, logger=MMLogger.get_instance('guard'))


def test_iterations_in_a_row():
    guard, runner = LossGuardHook(patience=2), runner_with()
    for value in (float('nan'), 1.0, float('inf'), 1.0):
        guard.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(value)))
    guard.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(1.0), loss_cls=torch.tensor(float('nan'))))
    with pytest.raises(RunError, match=r'2 iterations.*loss_cls nan.*images unknown.*gradient norm not measured'):
        guard.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(float('nan'))))
    with pytest.raises(ValueError, match='patience'):
        LossGuardHook(patience=0)


def test_a_step_that_overflows_is_skipped_and_counted():
    """The loop does what AmpOptimWrapper does, with the CPU's scaler."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler('cpu', init_scale=4.0)
    guard, runner = LossGuardHook(patience=2), runner_with(scaler)
    for scale in (1.0, float('inf'), 1.0, float('inf')):
        before = weight.item()
        scaler.scale(weight.sum() * scale).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        guard.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(1.0)))
        assert (weight.item() == before) == (scale == float('inf')), 'exactly the bad steps should be skipped'
    assert runner.message_hub.get_info('skipped_steps') == 2
