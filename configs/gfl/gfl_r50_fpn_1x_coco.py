# GFL, ResNet-50, FPN, 1x: the paper's setting (arXiv:2006.04388, table 3c and section 4).
# COCO minival box AP: not measured with this project yet. MMDetection published 40.2 for its own head and config.
_base_ = [
    '../_base_/models/gfl_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')))  # --no-pretrained leaves it out
