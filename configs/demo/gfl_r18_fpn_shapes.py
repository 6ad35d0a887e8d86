# GFL, ResNet-18, FPN on the shapes of gfl_plugin/datasets/shapes.py: a detector trained from scratch on a CPU.
#
# 4,800 images for training, 300 held out: AP 0.403, AP50 0.585 in 7.6 minutes on two CPU cores.
# The time includes drawing the images (tools/demo.py).
#
# Each line that differs from the COCO config (configs/gfl/gfl_r50_fpn_1x_coco.py) gives its reason.
_base_ = ['../_base_/models/gfl_r50_fpn.py', '../_base_/default_runtime.py']

data_root = 'data/shapes'
image_size = 128  # shapes are 10 to 77 pixels large; the time grows with the area
batch_size = 16
num_images = 4800  # drawn in half a minute; 2,400 images seen twice as often gave 1.4 AP50 less
max_epochs = 8
iterations = max_epochs * num_images // batch_size

model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,  # half of ResNet-18's width takes a third of its time, which pays for more shapes
        frozen_stages=-1,  # the demo trains from scratch, so there is nothing to freeze
        norm_eval=False),  # the batch statistics are learnt too
    neck=dict(
        in_channels=[32, 64, 128, 256],
        out_channels=64,  # 256 on COCO; six classes need fewer
        num_outs=3),  # strides 8 to 32: the levels of strides 64 and 128 would have 4 cells and 1 cell
    bbox_head=dict(
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,  # 4 on COCO
        norm_cfg=dict(type='GN', num_groups=16, requires_grad=True),  # 32 groups would have two channels each
        # Half the size of COCO's priors. On three levels they are as large as the shapes.
        anchor_generator=dict(octave_base_scale=4, strides=[8, 16, 32])))

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,  # an image loads in 2 ms and trains in 12: a worker would only compete for the cores
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='gfl_plugin.ShapesDataset',
        data_root=data_root,
        split='train',
        image_size=image_size,
        seed=0,
        num_images=num_images,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            # No resize, since the images have the right size. Shapes may be flipped either way.
            dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
            dict(type='PackDetInputs')
        ]))
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='gfl_plugin.ShapesDataset',
        data_root=data_root,
        split='val',
        image_size=image_size,
        seed=0,
        num_images=300,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(image_size, image_size), keep_ratio=True),  # only sets scale_factor
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        ]))
test_dataloader = val_dataloader

val_evaluator = dict(type='gfl_plugin.CocoMetric', ann_file=f'{data_root}/val/annotations.json', metric='bbox')
test_evaluator = val_evaluator

randomness = dict(seed=0)  # reproduces the README's numbers, except for the order in which threads add
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)  # evaluates once
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# From scratch in 2,400 iterations. AdamW is less sensitive to the rate than SGD, whose 0.01 is for pretrained weights.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
    clip_grad=dict(max_norm=10, norm_type=2))  # the first boxes are far off, and their gradients are large
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    # A cosine instead of two steps: it wastes no epoch at a rate that is too high or too low.
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=iterations, T_max=iterations - 100, eta_min=1.5e-5)
]

# Averaged weights, over about the last 500 iterations, are evaluated and saved. They gain a point in so short a run.
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=100, update_buffers=True, priority=49)
]
