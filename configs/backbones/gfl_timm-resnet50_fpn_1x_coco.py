# Any model of timm as the backbone: --cfg-options model.backbone.model_name=NAME is all that another one takes.
_base_ = '../gfl/gfl_r50_fpn_1x_coco.py'

model = dict(
    type='gfl_plugin.SingleStageDetector',  # asks the backbone for the channels of the neck
    backbone=dict(
        _delete_=True,
        type='gfl_plugin.TIMMBackbone',
        model_name='resnet50',
        pretrained=True,
        norm_eval=True),
    neck=dict(in_channels=None, start_level=0))  # the backbone gives C3 to C5 and no more
