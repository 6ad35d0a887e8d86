"""Train or test by a config."""
import contextlib
import copy
import errno
import os
import signal
import sys
import threading
import time
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NoReturn, Optional, Tuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import broadcast_object_list, init_dist, is_distributed

from .. import files, safe_loading
from ..errors import Interrupted, RunError, SetupError
from ..hooks import InterruptHook
from ..hooks.interrupt import read_timeout
from ..visualization import save_gallery
from .advice import advise, explaining_memory
from .config import Options, load_config
from .recipe import adapt_config, say
from .report import report_on_run
from .run_folders import default_folder, giving_back, refuse_file
from .runner import Runner
from .start import Start, decide_start, existing_file, named_last


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Print a user's mistake as one paragraph and exit with status 2; other errors keep their traceback.

    A run that a signal ended and that can go on exits with status 75 (:class:`Interrupted`), and Ctrl-C with status
    130. One rank of a machine prints for all of them. Whatever happens, the process leaves the other ranks before the
    interpreter exits.
    """
    is_orderly = False
    try:
        yield
        is_orderly = True
    except Interrupted as error:
        is_orderly = True  # all ranks end at the same iteration
        _exit(str(error), error.STATUS)
    except (SetupError, safe_loading.UnsafeCheckpointError) as error:
        _exit(f'error: {error}', 2)
    except KeyboardInterrupt:
        _exit('Ctrl-C ended the run', 128 + signal.SIGINT)
    finally:
        leave_ranks(is_orderly)


def _exit(message: str, status: int) -> NoReturn:
    if threading.current_thread() is threading.main_thread():  # a launcher passes on Ctrl-C, which has arrived already
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    is_first = _is_first_to_speak()
    for stream, text in ((sys.stdout, ''), (sys.stderr, f'{message}\n' if is_first else '')):
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # the terminal is gone; Python would try again while it exits, and change the status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def leave_ranks(is_orderly: bool) -> None:
    """Destroy the process group, if there is one.

    An interpreter that exits with a process group alive can abort, and a launcher then takes a finished run for a
    failed one.

    Args:
        is_orderly: Whether all ranks leave at the same place. If not, NCCL would wait for the operations that the other
            ranks have not joined, so they are aborted.
    """
    if not is_distributed():
        return
    abort = getattr(torch.distributed.distributed_c10d, '_abort_process_group', None)
    if is_orderly or abort is None or torch.distributed.get_backend() != 'nccl':
        torch.distributed.destroy_process_group()
    else:
        abort()


def _is_first_to_speak() -> bool:
    if 'TORCHELASTIC_ERROR_FILE' not in os.environ:
        return True
    # torchrun names a file per rank, each in a folder of its own. All ranks of a machine share the folder around these,
    # which is new for each start.
    shared = os.path.dirname(os.path.dirname(os.environ['TORCHELASTIC_ERROR_FILE']))
    try:
        os.mkdir(os.path.join(shared, 'spoken'))
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True


def train(options: Options) -> Runner:
    """Train as ``tools/train.py`` says.

    Raises:
        SetupError: The user made a mistake.
        RunError: The run cannot go on: the disk is full, or the loss is not finite.
        Interrupted: A signal ended the run, and the run is saved.
    """
    with _explaining_the_disk(), contextlib.ExitStack() as stack:
        config = load_config(options)
        said = adapt_config(config, options)
        _set_precision_and_rate(config, options)
        _prepare_processes(config, options)
        advice = advise(config)
        say(config, advice)
        start: Start = _on_all_ranks(lambda: decide_start(options, config))
        config.work_dir, config.load_from, config.resume = start.folder, start.checkpoint, start.resume
        if options.resume is None and not start.resume:
            stack.enter_context(giving_back(start.folder, config))
        runner = _build(config)
        runner.log_to_file('\n'.join(said + advice))
        for remark in start.remarks:
            runner.logger.warning(remark)
        named = start.checkpoint if _is_named(options, start) else None
        try:
            with _trust(options, named), explaining_memory(config, 'train'):
                runner.train()
        finally:
            for hook in runner.hooks:
                if isinstance(hook, InterruptHook):
                    hook.restore()
    return runner


def _set_precision_and_rate(config: Config, options: Options) -> None:
    if options.amp:
        if not torch.cuda.is_available():
            raise SetupError('--amp needs a CUDA device: half precision is slower on a CPU')
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.loss_scale = 'dynamic'
    if options.auto_scale_lr:
        if 'base_batch_size' not in config.get('auto_scale_lr', {}):
            raise SetupError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the batch '
                             'size over all devices that its learning rate is for')
        config.auto_scale_lr.enable = True


def test(options: Options) -> Tuple[Runner, Dict[str, float]]:
    """Evaluate as ``tools/test.py`` says.

    Returns:
        The runner, with the model, and the metrics.

    Raises:
        SetupError: The user made a mistake.
    """
    config = load_config(options)
    said = adapt_config(config, options)
    if options.out and not options.out.endswith(('.pkl', '.pickle')):
        raise SetupError(f'--out writes a pickle file, and {options.out} ends in neither .pkl nor .pickle')
    _prepare_processes(config, options)
    config.work_dir = options.work_dir or config.get('work_dir') or default_folder(options)
    refuse_file(config.work_dir)
    config.load_from, config.resume = existing_file(options.checkpoint), False
    if options.show_dir:
        _draw(config, options.show_dir)
    if options.tta:
        _augment_at_test_time(config)
    if options.out:
        evaluator = config.test_evaluator
        evaluators = list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]
        config.test_evaluator = evaluators + [dict(type='DumpDetResults', out_file_path=options.out)]
    with _trust(options, config.load_from), explaining_memory(config, 'test'):
        runner = _build(config, dump_config=False)
        runner.log_to_file('\n'.join(said))
        return runner, runner.test()


def load_trained(config: Config, options: Options) -> Runner:
    """Build a runner whose model has the weights of ``options.checkpoint`` and is in evaluation mode.

    Raises:
        SetupError: The user made a mistake.
    """
    config.load_from, config.resume = existing_file(options.checkpoint), False
    with _trust(options, config.load_from):
        runner = _build(config, dump_config=False)
        runner.test_loop  # MMEngine builds it when it is first asked for
        for point in ('before_run', 'before_test'):
            runner.call_hook(point)
        runner.load_or_resume()
    runner.model.eval()
    return runner


def demo(options: Options) -> None:
    """Train, evaluate, draw and report as ``tools/demo.py`` says. The last lines print the AP and where things are."""
    start = time.monotonic()
    folder = train(options).work_dir
    options.checkpoint, options.work_dir = named_last(folder), folder
    runner, metrics = test(options)
    page = report_on_run(folder, options.trust_checkpoint)
    gallery = save_gallery(runner.model, runner.test_dataloader.dataset, os.path.join(folder, 'detections'))
    minutes = (time.monotonic() - start) / 60
    # MMDetection gives no AP if nothing was detected. It is 0.
    ap, ap50 = (metrics.get(f'coco/bbox_{name}', 0.0) for name in ('mAP', 'mAP_50'))
    print(f'\nHeld-out images: AP {ap:.3f}, AP50 {ap50:.3f}, after {minutes:.1f} minutes\n'
          f'Report to look at: {page}\nDetections drawn:  {gallery}\nLogs, checkpoint:  {folder}')


def _build(config: Config, dump_config: bool = True) -> Runner:
    if not dump_config:  # the runner would overwrite the config of the training in the work_dir
        object.__setattr__(config, '_filename', None)
    return Runner.from_cfg(config)


def _prepare_processes(config: Config, options: Options) -> None:
    """Join the other ranks, over gloo if there is no CUDA."""
    if config.launcher == 'none' or is_distributed():
        return
    if options.local_rank is not None:  # torch.distributed.launch passes an option, torchrun an environment variable
        os.environ['LOCAL_RANK'] = str(options.local_rank)
    if torch.cuda.is_available():
        init_dist(config.launcher, **((config.get('env_cfg') or {}).get('dist_cfg') or {}))
    elif config.launcher == 'pytorch':  # init_dist would give each process a CUDA device
        torch.distributed.init_process_group('gloo', timeout=read_timeout(config))
        wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None,
                       find_unused_parameters=config.get('find_unused_parameters', False))
        config.model_wrapper_cfg = {**wrapper, **config.get('model_wrapper_cfg', {})}
    else:
        raise SetupError(f'--launcher {config.launcher} needs CUDA devices; without them start several processes with '
                         'torchrun and --launcher pytorch')


def _is_named(options: Options, start: Start) -> bool:
    """Whether the command, not only the config, names or resumes the checkpoint that a training starts from."""
    settings = options.cfg_options or []
    return start.resume or bool(getattr(options, 'weights', None)) or any(s.startswith('load_from=') for s in settings)


def _trust(options: Options, checkpoint: Optional[str]) -> ContextManager:
    """Trust the checkpoint of a command, and no other file that the run loads, if ``--trust-checkpoint`` says so."""
    return safe_loading.trusting(*([checkpoint] if options.trust_checkpoint and checkpoint else []))


@contextlib.contextmanager
def _explaining_the_disk() -> Iterator[None]:
    """Say in one paragraph that a run has no space or no permission to write a file, whichever file it is."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise SetupError(f'There is no access to {error.filename or "a file of the run"} ({error.strerror}). '
                             'Change its owner or mode, or name another --work-dir or --data-root') from error
        if not files.is_out_of_space(error):
            raise
        raise RunError(f'{error.filename or "A file of the run"} cannot be written ({error.strerror}). The checkpoints '
                       'are as they were. Free some space and go on by --resume') from error


def _on_all_ranks(decide: Callable[[], Any]) -> Any:
    """Let rank 0 decide for all ranks, since they look at the disk at different times. Its refusal ends all."""
    decision: List[Any] = [None, None]
    if not is_distributed() or torch.distributed.get_rank() == 0:
        try:
            decision[0] = decide()
        except (SetupError, safe_loading.UnsafeCheckpointError) as error:
            decision[1] = error
    broadcast_object_list(decision)
    if decision[1] is not None:
        raise decision[1]
    return decision[0]


def _draw(config: Config, folder: str) -> None:
    """Let our hook draw the detections, in place of MMDetection's, from the score on that the config sets for it."""
    hooks = config.setdefault('default_hooks', ConfigDict())
    score_thr = (hooks.get('visualization') or {}).get('score_thr', 0.3)
    hooks.visualization = dict(type='gfl_plugin.PictureHook', folder=folder, score_thr=score_thr)


def _augment_at_test_time(config: Config) -> None:
    """Flip and merge, unless the config has a TTA of its own (as MMDetection's tools/test.py)."""
    if 'tta_model' not in config:
        config.tta_model = dict(type='gfl_plugin.DetTTAModel',
                                tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.6), max_per_img=100))
    dataset = config.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_pipeline' not in config:
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        config.tta_pipeline = copy.deepcopy(dataset.pipeline)
        config.tta_pipeline[-1] = dict(type='TestTimeAug', transforms=[
            [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)],
            [dict(type='PackDetInputs', meta_keys=keys)]])
    dataset.pipeline = config.tta_pipeline
    config.model = ConfigDict(**config.tta_model, module=config.model)
