"""HistoryHook keeps of the logged values what the log needs, and no more."""
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub
from mmengine.runner import LogProcessor

from gfl_plugin.hooks import HistoryHook


def log(iterations, validation=None, **options):
    """Log the values 0, 1, 2, ... in epochs of 7 iterations, and return their history."""
    hub, hook = MessageHub('of this test only'), HistoryHook()
    runner = SimpleNamespace(message_hub=hub, log_processor=LogProcessor(**options), train_dataloader=range(7),
                             _val_loop=validation, val_dataloader=validation)
    hook.before_train(runner)
    for iteration in range(iterations):
        hub.update_scalar('train/loss', float(iteration))
        hook.after_train_iter(runner, iteration % 7)
    return hub.get_scalar('train/loss')


def window(size):
    return [dict(data_src='loss', log_name='other', method_name='mean', **size)]


@pytest.mark.parametrize('options, kept', [
    (dict(window_size=5), 5), (dict(window_size=5, validation=range(9)), 9),
    (dict(window_size=5, custom_cfg=window(dict(window_size=12))), 12),
    (dict(window_size=5, custom_cfg=window(dict(window_size='epoch'))), 7),
    (dict(window_size=5, custom_cfg=window(dict(window_size='global'))), 100),
    (dict(window_size=5, custom_cfg=window({})), 100)])
def test_the_longest_window_is_kept(options, kept):
    values, counts = log(100, **options).data
    assert values.tolist() == list(range(100 - kept, 100)) and counts.tolist() == [1] * kept


def test_means_are_the_same_as_with_the_whole_history():
    history = log(100, window_size=5)
    assert history.mean(5) == 97 and history.current() == 99
