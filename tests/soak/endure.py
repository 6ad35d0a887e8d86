#!/usr/bin/env python
"""Stop a training on shapes at random instants and resume it, again and again; print the outcome as JSON.

    python tests/soak/endure.py kill --times 100                              # kill -9
    python tests/soak/endure.py kill --times 100 --hook CheckpointHook        # with MMEngine's hook
    python tests/soak/endure.py term --times 20                               # SIGTERM
    python tests/soak/endure.py memory --iterations 2000                      # measures memory, never stops the run

Every run is a process of its own, forked from one that has imported everything. That saves ten seconds a run.
"""
import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from tool_runs import on_shapes  # noqa: E402

from gfl_plugin import engine  # noqa: E402
from gfl_plugin.engine.start import damage  # noqa: E402

INTERVAL = 4  # iterations an epoch, after each of which a checkpoint is saved


class Progress(Hook):
    """Tell the parent process at which iteration a run started and how far it is."""
    priority = 'HIGHEST'

    def __init__(self, started, done, memory=None):
        self.started, self.done, self.memory = started, done, memory

    def before_train_epoch(self, runner):
        if self.started.value < 0:
            self.started.value = runner.iter

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.done.value = runner.iter + 1
        if self.memory is not None:
            with open('/proc/self/statm') as file:
                self.memory[runner.iter] = int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


def train(folder, settings, hook, stderr):
    """Train; this is the main function of the forked process."""
    output = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from_cfg = engine.run.Runner.from_cfg

    def with_hook(config):
        runner = from_cfg(config)
        runner.register_hook(hook)
        return runner

    engine.run.Runner.from_cfg = with_hook
    arguments = 'train', folder / 'data', '--work-dir', str(folder / 'run'), '--resume'
    try:
        with engine.reporting():
            engine.train(on_shapes(*arguments, settings=settings))
    except SystemExit as exit:
        os._exit(exit.code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def start(folder, settings, memory=None):
    fork = multiprocessing.get_context('fork')
    hook = Progress(fork.Value('q', -1), fork.Value('q', 0), memory)
    process = fork.Process(target=train, args=(folder, settings, hook, folder / 'stderr'))
    process.start()
    return process, hook


def settings_with(hook):
    return [f'default_hooks.checkpoint.type={hook}', 'default_hooks.checkpoint.max_keep_ckpts=1',
            'train_dataloader.batch_size=2', f'train_dataloader.dataset.num_images={2 * INTERVAL}',
            'train_cfg.max_epochs=100000', 'train_cfg.val_begin=1000000', 'default_hooks.logger.interval=1000']


def endure(options):
    """Stop the run ``times`` times, at random instants spread over several saves, and resume it after each stop."""
    number = dict(kill=signal.SIGKILL, term=signal.SIGTERM)[options.command]
    folder, rng = Path(tempfile.mkdtemp()), random.Random(options.seed)
    settings, run = settings_with(options.hook), folder / 'run'
    resumed, lost, statuses, reached = 0, [], [], 0
    for attempt in range(options.times + 1):
        process, hook = start(folder, settings)
        while hook.started.value < 0 and process.is_alive():
            time.sleep(0.005)
        if attempt > 0:  # the first attempt does not resume
            begin = hook.started.value  # -1 if the run could not start
            lost.append(reached - max(begin, 0))
            resumed += begin >= 0 and lost[-1] <= INTERVAL
        if process.is_alive():
            time.sleep(rng.uniform(0, options.longest))
            os.kill(process.pid, number)
        process.join(60)
        statuses.append(process.exitcode)
        reached = hook.done.value
        if options.hook == 'CheckpointHook' and not any(damage(str(file)) is None for file in run.glob('epoch_*.pth')):
            shutil.rmtree(run, ignore_errors=True)  # everything is lost: the next run starts afresh
    shutil.rmtree(folder)
    return dict(ended=options.times, resumed=resumed, most_lost=max(lost), interval=INTERVAL, hook=options.hook,
                statuses={str(status): statuses.count(status) for status in set(statuses)})


def measure_memory(options):
    folder = Path(tempfile.mkdtemp())
    memory = multiprocessing.get_context('fork').Array('d', options.iterations)
    process, hook = start(folder, [*settings_with('gfl_plugin.CheckpointHook'), f'train_cfg.max_epochs='
                                   f'{options.iterations // INTERVAL}'], memory)
    process.join()
    shutil.rmtree(folder)
    used = np.array(memory[:])[200:]
    slope = np.polyfit(np.arange(len(used)), used, 1)[0] * 1000
    return dict(iterations=hook.done.value, status=process.exitcode, after_200=round(used[0], 1),
                at_the_end=round(used[-1], 1), slope=round(slope, 3), unit='MB, MB per 1,000 iterations')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=['kill', 'term', 'memory'])
    parser.add_argument('--times', type=int, default=100)
    parser.add_argument('--hook', default='gfl_plugin.CheckpointHook')
    parser.add_argument('--longest', type=float, default=1.0, help='longest time of training before a stop, seconds')
    parser.add_argument('--iterations', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(measure_memory(options) if options.command == 'memory' else endure(options)))
