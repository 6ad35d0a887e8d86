# COCO minival box AP: not measured here yet. MMDetection published 45.9.
_base_ = './gfl_r50_fpn_ms-2x_coco.py'
model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=4,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_32x4d')))
