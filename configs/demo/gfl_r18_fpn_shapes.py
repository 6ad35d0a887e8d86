# GFL, ResNet-18, FPN on the shapes of gfl_plugin/datasets/shapes.py: from nothing to a working detector, on a CPU.
#
# Held-out shapes (4,800 for training, 300 held out): AP 0.404, AP50 0.580 in 8.4 minutes on two CPU cores, drawing the
# images included; 0.8 GB of memory (tools/demo.py).
#
# A reason stands beside each line that departs from the setting on COCO (configs/gfl/gfl_r50_fpn_1x_coco.py).
_base_ = ['../_base_/models/gfl_r50_fpn.py', '../_base_/default_runtime.py']

data_root = 'data/shapes'
image_size = 128  # shapes are 10 to 77 pixels large; time goes with the area
batch_size = 16
num_images = 4800  # drawn in half a minute; 2,400 twice as often gave 1.4 AP50 less
max_epochs = 8
iterations = max_epochs * num_images // batch_size

model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,  # half of ResNet-18's width: a third of its time, well spent on more shapes
        frozen_stages=-1,  # from scratch: the demo downloads nothing, so there is nothing to freeze ...
        norm_eval=False),  # ... and the batch statistics have yet to be learnt
    neck=dict(
        in_channels=[32, 64, 128, 256],
        out_channels=64,  # 256 on COCO; six classes need less
        num_outs=3),  # strides 8 to 32: levels 64 and 128 would have 4 and 1 cells
    bbox_head=dict(
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,  # 4 on COCO
        norm_cfg=dict(type='GN', num_groups=16, requires_grad=True),  # 32 groups of 64 channels would be pairs
        # Half the size of COCO's priors: with three levels, these are the sizes of the shapes.
        anchor_generator=dict(octave_base_scale=4, strides=[8, 16, 32])))

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,  # an image takes 2 ms to load and 12 to train on: a worker would only compete for the cores
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
            # No resizing, images are made to size; but any shape may as well stand on its head.
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
            dict(type='Resize', scale=(image_size, image_size), keep_ratio=True),  # for the scale_factor alone
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        ]))
test_dataloader = val_dataloader

val_evaluator = dict(type='gfl_plugin.CocoMetric', ann_file=f'{data_root}/val/annotations.json', metric='bbox')
test_evaluator = val_evaluator

randomness = dict(seed=0)  # the README's numbers, as far as threads allow
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)  # evaluated once
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# From scratch in 2,400 iterations: AdamW needs no luck with its learning rate; SGD's 0.01 is for pretrained weights.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
    clip_grad=dict(max_norm=10, norm_type=2))  # the first boxes are far off
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    # A cosine instead of two steps: no epoch is spent at a rate that is too high to finish or too low to move.
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=iterations, T_max=iterations - 100, eta_min=1.5e-5)
]

# Evaluated and saved are averaged weights, over about the last 500 iterations: worth a point where so few are made.
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=100, update_buffers=True, priority=49)
]
