# Any model of timm as the backbone: choose another one with --cfg-options model.backbone.model_name=NAME.
_base_ = '../gfl/gfl_r50_fpn_1x_coco.py'

model = dict(
    type='gfl_plugin.SingleStageDetector',  # reads the channels of the neck from the backbone
    backbone=dict(
        _delete_=True,
        type='gfl_plugin.TIMMBackbone',
        model_name='resnet50',
        pretrained=True,
        norm_eval=True),
    neck=dict(in_channels=None, start_level=0))  # the backbone gives C3 to C5 only
