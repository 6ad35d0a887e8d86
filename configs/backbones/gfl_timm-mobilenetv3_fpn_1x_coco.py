# For mobile devices: MobileNetV3-Large. Neck and head together cost at most twice as much as the backbone.
_base_ = './gfl_timm-resnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(model_name='mobilenetv3_large_100'),
    neck=dict(out_channels=64),  # the cost of its 3x3 convolutions grows with the square; 256 suits a ResNet-50
    bbox_head=dict(
        in_channels=64,  # the neck's
        feat_channels=64,  # grows with the square too, on five levels; GN has 32 groups of two channels
        stacked_convs=2))  # instead of four: half the cost, and a smaller receptive field
