# A mobile one: MobileNetV3-Large and a light head.
_base_ = './gfl_timm-resnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(model_name='mobilenetv3_large_100'),
    neck=dict(out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96, stacked_convs=2))  # 256 and 4 would cost more than the backbone
