# GFL, ResNet-50, FPN: fine-tunes on a small data set of your own, on a GPU.
# It starts from the weights that MMDetection published for COCO (42.9 AP there).
# Not measured yet. The 80 classes and the paths of COCO only stand in for those of your data.
#
# Each line that departs from the setting on COCO (configs/gfl/gfl_r50_fpn_ms-2x_coco.py) has its reason beside it.
_base_ = '../gfl/gfl_r50_fpn_ms-2x_coco.py'

batch_size = 4  # for one GPU: half of what lite0 takes, for images of four times the size and more
max_epochs = 12  # of few images: COCO's 24 epochs take 180,000 iterations

# The checkpoint that `--weights gfl_r50_fpn_ms-2x_coco` names. Its class layer is COCO's, so yours starts anew.
load_from = ('https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r50_fpn_mstrain_2x_coco/'
             'gfl_r50_fpn_mstrain_2x_coco_20200629_213802-37bb1edc.pth')
model = dict(backbone=dict(init_cfg=None))  # the checkpoint brings the backbone

train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(filter_cfg=dict(_delete_=True, filter_empty_gt=False)))  # images without objects show what is none

train_cfg = dict(max_epochs=max_epochs, val_interval=3)  # 1 on COCO; an epoch is short here
default_hooks = dict(logger=dict(interval=10))  # 300 images are 75 iterations an epoch
randomness = dict(seed=0)  # the same command gives the same detector, as far as threads allow

# AdamW with a small rate: the new class layer learns in some hundred iterations, and the rest moves little.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
    clip_grad=dict(max_norm=10, norm_type=2))  # the new class layer's first gradients are large
auto_scale_lr = dict(base_batch_size=batch_size)  # what lr=1e-4 is for
param_scheduler = [  # counted in epochs and stepped every iteration, so that it fits a data set of any size
    dict(type='LinearLR', start_factor=0.01, begin=0, end=1, convert_to_iter_based=True),
    # A cosine instead of two steps: no epoch is spent at a rate that is too high to finish or too low to move.
    dict(type='CosineAnnealingLR', begin=1, end=max_epochs, T_max=max_epochs - 1, eta_min_ratio=0.01,
         convert_to_iter_based=True),
]

# Evaluated and saved are averaged weights, over about the last 500 iterations: the last ones alone are noisy.
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=100, update_buffers=True, priority=49)
]
