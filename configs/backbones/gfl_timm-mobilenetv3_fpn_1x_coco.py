# A mobile one: MobileNetV3-Large with a neck and a head that cost no more than twice what it does.
_base_ = './gfl_timm-resnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(model_name='mobilenetv3_large_100'),
    neck=dict(out_channels=64),  # its 3x3 convolutions cost the square of this; 256 are for a ResNet-50
    bbox_head=dict(
        in_channels=64,  # the neck's
        feat_channels=64,  # the square again, at every cell of five levels; two in each of the 32 groups of GN
        stacked_convs=2))  # of the four in each tower: half of their cost, and fewer pixels around a cell are seen
