"""What ``tools/benchmark.py`` measures: this plugin against MMDetection's own head, in one process, in turn.

Times are of A B A B ...; a ratio is the median of those of neighbouring pairs, so that a machine that slows down for a
while slows both. Inputs are random: nothing here needs a data set.
"""
import contextlib
import copy
import importlib.util
import json
import os
import platform
import statistics
import time
from importlib import metadata
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor

from ..compat import ops
from ..errors import SetupError
from ..evaluation.coco_metric import evaluators
from ..functional.nms import class_aware_nms
from ..losses import fused_class_loss as fused
from ..losses.closed_form import ClassTargets
from .config import Options, load_config

STRIDES = (8, 16, 32, 64, 128)
OWN_TO_STOCK = {'gfl_plugin.GFLHead': 'GFLHead', 'gfl_plugin.QualityFocalLoss': 'QualityFocalLoss',
                'gfl_plugin.DistributionFocalLoss': 'DistributionFocalLoss', 'gfl_plugin.GIoULoss': 'GIoULoss',
                'gfl_plugin.ATSSAssigner': 'ATSSAssigner'}


class Pairs(NamedTuple):
    """Seconds of each round."""
    ours: List[float]
    theirs: List[float]


class Row(NamedTuple):
    """One comparison: what of, medians, how many times less ours is, and the range of that over the middle half."""
    name: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    spread: Tuple[float, float]


def benchmark(options: Options) -> Dict[str, object]:
    """Measure as ``tools/benchmark.py`` says; prints a table, and writes it where ``--json`` says.

    Raises:
        SetupError: The device is not there.
    """
    init_default_scope('mmdet')
    if options.device.startswith('cuda') and not torch.cuda.is_available():
        raise SetupError(f'--device {options.device} was asked for, and PyTorch {torch.__version__} finds no CUDA')
    rows = dict(head=_head, train=_train, infer=_infer, eval=_eval)[options.command](options)
    result = dict(command=options.command, options={k: v for k, v in vars(options).items() if k != 'json'},
                  machine=describe_machine(options.device), rows=[row._asdict() for row in rows])
    print('\n'.join(f'{key}: {value}' for key, value in result['machine'].items()))
    print(table(rows))
    if options.json:
        with open(options.json, 'w') as file:
            json.dump(result, file, indent=1)
    return result


def describe_machine(device: str) -> Dict[str, str]:
    """What a figure depends on."""
    import mmcv
    import mmdet
    name = (torch.cuda.get_device_name(device) if device.startswith('cuda')
            else f'{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads')
    mmcv_ops = 'with the stand-ins of this plugin' if ops.install() else 'with compiled ops'
    machine = {'device': name, 'torch': torch.__version__, 'mmcv': f'{mmcv.__version__} {mmcv_ops}',
               'mmdet': mmdet.__version__, 'a copy': f'{copy_bandwidth(device) / 1e9:.0f} GB/s, read and written'}
    if device.startswith('cuda'):
        has_triton = importlib.util.find_spec('triton') is not None
        triton = metadata.version('triton') if has_triton else 'none'
        machine['cuda'] = (f'{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, triton {triton}, '
                           f'{"used" if has_triton and fused.USE_TRITON else "not used"}; '
                           f'convolutions in {"TF32" if torch.backends.cudnn.allow_tf32 else "fp32"} where not in bf16')
    return machine


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes: the floor of whatever passes over memory."""
    source = torch.zeros(1 << (30 if device.startswith('cuda') else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    pairs = in_turn(lambda: target.copy_(source), lambda: None, 10, device)
    return 2 * source.numel() / statistics.median(pairs.ours)


def table(rows: Sequence[Row]) -> str:
    """Rows as text."""
    lines = [f'{"":58}{"ours":>10}{"mmdet":>10}       {"ratio":>7}   middle half']
    for row in rows:
        lines.append(f'{row.name:58}{row.ours:10.4g}{row.theirs:10.4g} {row.unit:5} {row.ratio:7.2f}   '
                     f'{row.spread[0]:.2f} .. {row.spread[1]:.2f}')
    return '\n'.join(lines)


# ---- measuring ----

def in_turn(ours: Callable, theirs: Callable, rounds: int, device: str) -> Pairs:
    """Seconds of two functions, called in turn, after two rounds that do not count."""
    pairs = Pairs([], [])
    for index in range(rounds + 2):
        for function, times in ((ours, pairs.ours), (theirs, pairs.theirs)):
            start = _now(device)
            function()
            if index >= 2:
                times.append(_now(device) - start)
            else:
                _now(device)
    return pairs


def _now(device: str) -> float:
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def on_device(function: Callable, device: str) -> Callable:
    """``function`` without the host's part: on a GPU the replay of its kernels, which then follow without gaps."""
    if not device.startswith('cuda'):
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are compiled and libraries loaded before the capture
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def compare(name: str, pairs: Pairs, per: float = 1.0, unit: str = 'ms') -> Row:
    """Medians of times, in ms or as ``per`` images/s, and how many times faster ours is."""
    ratios = sorted(b / a for a, b in zip(*pairs))
    quarter = len(ratios) // 4
    ours, theirs = (statistics.median(times) for times in pairs)
    values = (1e3 * ours, 1e3 * theirs) if unit == 'ms' else (per / ours, per / theirs)
    return Row(name, *values, unit, statistics.median(ratios), (ratios[quarter], ratios[-1 - quarter]))


def peak_memory(function: Callable, device: str) -> int:
    """The most bytes of tensors that a call holds at once, beyond those held before it."""
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak


# ---- the head ----

def head_settings(stock: bool, num_classes: int = 80) -> ConfigDict:
    """The head of the 1x config, or MMDetection's with its own losses and assigner."""
    scope = '' if stock else 'gfl_plugin.'
    return ConfigDict(
        type=f'{scope}GFLHead', num_classes=num_classes, in_channels=8, feat_channels=8, stacked_convs=0,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
                              strides=list(STRIDES)),
        loss_cls=dict(type=f'{scope}QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type=f'{scope}DistributionFocalLoss', loss_weight=0.25), reg_max=16,
        loss_bbox=dict(type=f'{scope}GIoULoss', loss_weight=2.0),
        train_cfg=dict(assigner=dict(type=f'{scope}ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1,
                       debug=False),
        test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6),
                      max_per_img=100))


def random_targets(batch: int, size: Tuple[int, int], count: int, device: str, num_classes: int = 80
                   ) -> Tuple[List[InstanceData], List[dict]]:
    """``count`` boxes of all sizes in each image, and its meta information."""
    height, width = size
    extent = torch.exp(torch.empty(batch, count, 2).uniform_(2.5, 6.2)).minimum(torch.tensor([width, height]) * 0.95)
    corner = torch.rand(batch, count, 2) * (torch.tensor([width, height]) - extent)
    boxes = torch.cat([corner, corner + extent], -1).to(device)
    labels = torch.randint(0, num_classes, (batch, count)).to(device)
    meta = dict(img_shape=(height, width), pad_shape=(height, width), batch_input_shape=(height, width),
                ori_shape=(height, width), scale_factor=(1.0, 1.0))
    return [InstanceData(bboxes=b, labels=c) for b, c in zip(boxes, labels)], [meta] * batch


def random_maps(batch: int, size: Tuple[int, int], channels: int, device: str, dtype=torch.float32) -> List[Tensor]:
    """L maps (B, channels, H, W) of standard normal numbers."""
    return [torch.randn(batch, channels, -(-size[0] // s), -(-size[1] // s), device=device, dtype=dtype)
            for s in STRIDES]


def class_maps_with(candidates: int, batch: int, size: Tuple[int, int], device: str) -> List[Tensor]:
    """Class logits with so many scores above 0.05 in each image, a fifth of them on each level."""
    maps = [m.mul_(0.3).sub_(6) for m in random_maps(batch, size, 80, device)]
    for m in maps:
        flat = m.flatten(1)
        count = min(candidates // len(maps), flat.shape[1])
        for image in flat:
            chosen = torch.randperm(flat.shape[1])[:count].to(device)
            image[chosen] = torch.empty(count, device=device).uniform_(0.06, 0.9).logit()
    return maps


def _head(options: Options) -> List[Row]:
    torch.manual_seed(0)
    device, batch, size, dtype = options.device, options.batch, tuple(options.size), torch.float32
    if options.amp:
        dtype = torch.bfloat16
    ours, theirs = (MODELS.build(head_settings(stock)).to(device) for stock in (False, True))
    scores = [m.mul_(0.7).sub_(4.6).requires_grad_() for m in random_maps(batch, size, 80, device, dtype)]
    sides = [m.requires_grad_() for m in random_maps(batch, size, 68, device)]  # the head gives them in fp32
    rows = []
    for count in options.gts:
        gt, metas = random_targets(batch, size, count, device)

        def loss_path(head):
            losses = head.loss_by_feat(scores, sides, gt, metas)
            total = sum(v if isinstance(v, Tensor) else sum(v) for v in losses.values())
            torch.autograd.grad(total, [*scores, *sides])

        pairs = in_turn(lambda: loss_path(ours), lambda: loss_path(theirs), options.rounds, device)
        rows.append(compare(f'loss path, forward and backward, {count} objects an image', pairs))
        gradients = sum(m.numel() * m.element_size() for m in (*scores, *sides))
        extra = [(peak_memory(lambda: loss_path(head), device) - gradients) / 1e6 for head in (ours, theirs)]
        rows.append(Row('  peak memory beyond logits and gradients', *extra, 'MB', extra[1] / extra[0],
                        (extra[1] / extra[0], ) * 2))

    targets, form = _random_targets_of(scores, 300, device), ours.loss_cls.closed_form
    scale = torch.tensor(1 / 300, device=device)

    def qfl():
        torch.autograd.grad(fused.fused_class_loss(form, scores, targets, [None] * len(scores), scale), scores)

    def copy_logits():
        return [m.detach().clone() for m in scores]

    pairs = in_turn(qfl, copy_logits, options.rounds, device)
    rows.append(compare('QFL, forward and backward (mmdet: one copy of its logits)', pairs))
    if device.startswith('cuda'):
        pairs = in_turn(on_device(qfl, device), on_device(copy_logits, device), options.rounds, device)
        rows.append(compare('  the same, replayed as a CUDA graph', pairs))
    with torch.no_grad():
        for candidates in (5000, 300):
            maps = class_maps_with(candidates, batch, size, device)
            _, metas = random_targets(batch, size, 1, device)
            for with_nms, end in ((True, ''), (False, ', without NMS')):
                settings = dict(batch_img_metas=metas, with_nms=with_nms)
                pairs = in_turn(*(lambda head=head: head.predict_by_feat(maps, sides, **settings)
                                  for head in (ours, theirs)), options.rounds, device)
                rows.append(compare(f'prediction, {candidates} candidates an image{end}', pairs))
        rows.append(_nms_alone(options.rounds, device))
    return rows


def _random_targets_of(maps: Sequence[Tensor], count: int, device: str) -> List[ClassTargets]:
    """Random scores at ``count`` different places of each map, or at as many as there are."""
    targets = []
    for m in maps:
        chosen = torch.randperm(m.numel())[:count].to(device)
        image, label, cell = torch.unravel_index(chosen, m.flatten(2).shape)
        targets.append(ClassTargets(image, label, cell, torch.rand(len(chosen), device=device)))
    return targets


def _nms_alone(rounds: int, device: str) -> Row:
    from mmcv.ops import batched_nms
    (objects, ), _ = random_targets(1, (800, 1344), 5000, device)
    scores, image = torch.rand(5000, device=device), torch.zeros(5000, dtype=torch.long, device=device)
    settings = dict(type='nms', iou_threshold=0.6)
    pairs = in_turn(lambda: class_aware_nms(objects.bboxes, scores, objects.labels, image, 0.6, max_keep=100),
                    lambda: batched_nms(objects.bboxes, scores, objects.labels, settings)[1][:100], rounds, device)
    return compare('NMS of 5,000 boxes of 80 classes, 100 kept (mmcv\'s)', pairs)


# ---- whole models ----

def stock_model(config: Config) -> ConfigDict:
    """The model of a config with MMDetection's head, losses and assigner instead of the plugin's."""
    def replace(node):
        if isinstance(node, dict):
            return {k: OWN_TO_STOCK.get(v, v) if k == 'type' else replace(v) for k, v in node.items()}
        return [replace(v) for v in node] if isinstance(node, (list, tuple)) else node
    return ConfigDict(replace(config.model))


def _two_models(options: Options):
    config = load_config(options)
    torch.manual_seed(0)
    models = [MODELS.build(model).to(options.device) for model in (config.model, stock_model(config))]
    models[1].load_state_dict(models[0].state_dict(), strict=True)
    return config, models


def _random_batch(options: Options, num_classes: int) -> dict:
    objects, metas = random_targets(options.batch, tuple(options.size), options.gts[0], 'cpu', num_classes)
    samples = [DetDataSample(metainfo=dict(meta), gt_instances=gt) for gt, meta in zip(objects, metas)]
    return dict(inputs=[torch.randint(0, 256, (3, *options.size), dtype=torch.uint8) for _ in samples],
                data_samples=samples)


def stock_optimizer(config: Config, against: str) -> ConfigDict:
    """What MMDetection trains the same schedule with: fp32 (``stock``) or ``--amp`` of its tools (``stock-amp``)."""
    optimizer = {k: v for k, v in config.optim_wrapper.optimizer.items() if k != 'fused'}
    if against == 'stock':
        return ConfigDict(type='OptimWrapper', optimizer=optimizer)
    return ConfigDict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=optimizer)


def _train(options: Options) -> List[Row]:
    config, models = _two_models(options)
    settings = config.optim_wrapper
    if (options.amp or options.against == 'stock-amp') and not options.device.startswith('cuda'):
        raise SetupError('half precision needs a CUDA device: it is slower on a CPU')
    if options.amp:
        settings.update(type='AmpOptimWrapper', dtype='bfloat16')
    theirs = settings if options.against == 'same' else stock_optimizer(config, options.against)
    torch.backends.cudnn.benchmark = config.env_cfg.cudnn_benchmark
    layout = any(hook.type == 'gfl_plugin.ChannelsLastHook' for hook in config.get('custom_hooks', []))
    for model in models if options.against == 'same' else models[:1]:
        model.to(memory_format=torch.channels_last if layout else torch.preserve_format)
    batch = _random_batch(options, models[0].bbox_head.num_classes)
    batch['inputs'] = [image.to(options.device) for image in batch['inputs']]  # as a loader that is ahead has done
    steps = []
    for model, wrapper in zip(models, (settings, theirs)):
        model.train()
        wrapper = build_optim_wrapper(model, wrapper)
        steps.append(lambda model=model, wrapper=wrapper: model.train_step(batch, wrapper))
    pairs = in_turn(*steps, options.rounds, options.device)
    memory = [peak_memory(step, options.device) / 1e6 for step in steps]
    ratio = memory[1] / memory[0]
    return [compare(f'training steps, batch {options.batch}', pairs, options.batch, 'img/s'),
            Row('  peak memory beyond weights, gradients and momentum', *memory, 'MB', ratio, (ratio, ratio))]


def _infer(options: Options) -> List[Row]:
    _, models = _two_models(options)
    batch = _random_batch(options, models[0].bbox_head.num_classes)
    half = torch.autocast(options.device.split(':')[0], torch.bfloat16) if options.amp else contextlib.nullcontext()
    with torch.no_grad(), half:
        for model in models:
            model.eval()
        pairs = in_turn(*(lambda model=model: model.test_step(batch) for model in models), options.rounds,
                        options.device)
    return [compare(f'inference, batch {options.batch}', pairs, options.batch, 'img/s')]


# ---- evaluation ----

def _eval(options: Options) -> List[Row]:
    if len(evaluators()) < 2:
        raise SetupError('There is nothing to compare with: pip install faster-coco-eval')
    results = random_results(options.images)
    numbers = {}

    def run(backend: str) -> None:
        numbers[backend] = twelve_numbers(*results, backend)

    pairs = in_turn(*(lambda backend=backend: run(backend) for backend in evaluators()), options.rounds, 'cpu')
    difference = max(abs(a - b) for a, b in zip(*numbers.values()))
    return [compare(f'evaluation of {options.images} images, 100 detections each (pycocotools)', pairs),
            Row('  largest difference of the twelve numbers', difference, 0.0, '', 1.0, (1.0, 1.0))]


def twelve_numbers(truth: dict, detections: List[dict], backend: str) -> List[float]:
    """COCO's numbers of detections, in its JSON format, by one of :func:`evaluators`."""
    make_data, make_evaluation = evaluators()[backend]
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        data = make_data()
        data.dataset = copy.deepcopy(truth)
        data.createIndex()
        evaluation = make_evaluation(data, data.loadRes(copy.deepcopy(detections)), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats[:12])


def random_results(images: int, objects: int = 7, found: int = 100) -> Tuple[dict, List[dict]]:
    """COCO-format annotations, and detections that are near the objects of their image."""
    generator = torch.Generator().manual_seed(0)
    annotations, detections = [], []
    for image in range(images):
        corner = torch.rand(objects, 2, generator=generator) * 400
        boxes = torch.cat([corner, 10 + torch.rand(objects, 2, generator=generator) * 150], 1)
        labels = torch.randint(1, 81, (objects, ), generator=generator)
        for box, label in zip(boxes.tolist(), labels.tolist()):
            annotations.append(dict(id=len(annotations) + 1, image_id=image + 1, category_id=label, bbox=box,
                                    area=box[2] * box[3], iscrowd=0))
        near = torch.randint(0, objects, (found, ), generator=generator)
        shifted = boxes[near] + torch.randn(found, 4, generator=generator) * 6
        shifted[:, 2:].clamp_(min=1)
        scores = torch.rand(found, generator=generator)
        detections += [dict(image_id=image + 1, category_id=label, bbox=box, score=score)
                       for box, label, score in zip(shifted.tolist(), labels[near].tolist(), scores.tolist())]
    truth = dict(info={}, images=[dict(id=i + 1, width=640, height=640, file_name='') for i in range(images)],
                 annotations=annotations, categories=[dict(id=i, name=str(i)) for i in range(1, 81)])
    return truth, detections
