"""Training as a whole: against MMDetection's head, and on several ranks."""
import json

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from reference import assert_close, head_config, losses_and_gradients, random_features, random_objects
from tool_runs import free_port, on_ranks, on_shapes

from gfl_plugin import engine
from gfl_plugin.safe_loading import load_file

# Equal data in equal order, no matter how many processes share it, and batch statistics that nobody shares. Scores
# start high: below a sum of 1 over the batch a share of it is clamped where the whole is not.
REPEATABLE = [
    'randomness.seed=0', 'train_dataloader.dataset.pipeline.2.prob=0.0', 'model.backbone.norm_eval=True',
    'optim_wrapper.optimizer.type=SGD', 'optim_wrapper.optimizer.lr=0.02', 'param_scheduler.0.end=5',
    'log_processor.window_size=1',
    *(f'model.bbox_head.init_cfg.{key}' for key in
      ('type=Normal', 'layer=Conv2d', 'std=0.01', 'override.type=Normal', 'override.name=gfl_cls', 'override.std=0.01',
       'override.bias_prob=0.3'))]
MMDET = ['model.bbox_head.type=GFLHead', 'model.train_cfg.assigner.type=ATSSAssigner',
         *(f'model.bbox_head.loss_{part}.type={name}' for part, name in
           (('cls', 'QualityFocalLoss'), ('dfl', 'DistributionFocalLoss'), ('bbox', 'GIoULoss')))]


def test_twenty_iterations_with_either_head(tmp_path):
    """From one seed: the same initial weights, data and losses, each of which the step before it shapes."""
    histories = []
    for name, settings in (('ours', []), ('theirs', MMDET)):
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / name),
                               settings=[*REPEATABLE, 'train_cfg.max_epochs=5', 'train_cfg.val_interval=9', *settings]))
        log, = (tmp_path / name).glob('*/vis_data/scalars.json')
        histories.append([line for line in map(json.loads, log.read_text().splitlines()) if 'loss' in line])
    assert len(histories[0]) == len(histories[1]) == 20
    assert histories[0][-1]['loss'] < 0.9 * histories[0][0]['loss'], 'the runs should learn something'
    for ours, theirs in zip(*histories):
        for name in ('loss_cls', 'loss_bbox', 'loss_dfl', 'grad_norm'):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), f'{name} of iteration {ours["step"]}'


COUNTS = (7, 0, 12, 4)  # objects of four images; the second of two ranks, and one image, have fewer or none


def head_and_batch():
    """The same on every rank."""
    torch.manual_seed(0)
    init_default_scope('mmdet')
    head = MODELS.build(head_config('gfl_plugin.GFLHead', 'gfl_plugin.'))
    torch.nn.init.normal_(head.gfl_cls.weight, std=0.1)
    torch.nn.init.constant_(head.gfl_cls.bias, -1.0)
    return head, random_features(len(COUNTS), 192, 256), *random_objects(COUNTS, 192, 256)


def one_rank(rank: int, world_size: int, port: int, order, file: str) -> None:
    import gfl_plugin  # noqa: F401  (a process of its own)
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=world_size)
    head, features, objects, metas = head_and_batch()
    mine = list(order[rank::world_size])
    losses, gradients = losses_and_gradients(head, [f[mine] for f in features], [objects[i] for i in mine],
                                             [metas[i] for i in mine])
    gradients = {name: g for name, g in gradients.items() if not name.startswith('feature')}
    for value in (*losses.values(), *gradients.values()):  # the mean over ranks, as MMDistributedDataParallel does
        torch.distributed.all_reduce(value.data)
        value.data /= world_size
    if rank == 0:
        torch.save((losses, gradients), file)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('ranks, order', [
    (2, (0, 1, 2, 3)), (2, (0, 1, 3, 1)), pytest.param(4, (0, 1, 2, 3), marks=pytest.mark.soak)],
    ids=['objects_on_both', 'one_of_two_without_objects', 'one_of_four_without_objects'])
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
def test_ranks_are_one_process_on_the_whole_batch(ranks, order, tmp_path):
    file = str(tmp_path / 'result')
    torch.multiprocessing.spawn(one_rank, (ranks, free_port(), order, file), nprocs=ranks)
    losses, gradients = torch.load(file, weights_only=True)
    head, features, objects, metas = head_and_batch()
    index = list(order)
    whole, whole_gradients = losses_and_gradients(head, [f[index] for f in features], [objects[i] for i in index],
                                                  [metas[i] for i in index])
    for name in whole:
        assert_close(losses[name], whole[name], name)
    for name in gradients:
        assert_close(gradients[name], whole_gradients[name], f'the gradient of {name}')


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
def test_two_ranks_train_the_same_weights(tmp_path):
    """tools/dist_train.sh with two processes of two images against one process with four."""
    weights = []
    for name, processes in (('one', 0), ('two', 2)):
        settings = [*REPEATABLE, f'train_dataloader.batch_size={4 // max(processes, 1)}', 'train_cfg.max_epochs=1',
                    'train_cfg.val_interval=9']
        arguments = '--work-dir', str(tmp_path / name)
        if processes:
            done = on_ranks(processes, tmp_path / 'data', *arguments, settings=settings)
            assert done.returncode == 0, done.stderr[-3000:]
        else:
            engine.train(on_shapes('train', tmp_path / 'data', *arguments, settings=settings))
        weights.append(load_file(tmp_path / name / 'epoch_1.pth')['state_dict'])
    for name, weight in weights[0].items():
        if weight.is_floating_point():
            assert_close(weights[1][name], weight, name, 1e-4)
