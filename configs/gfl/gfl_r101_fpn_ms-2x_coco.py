# COCO minival box AP: not yet measured here; 44.7 published by MMDetection.
_base_ = './gfl_r50_fpn_ms-2x_coco.py'
model = dict(
    backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
