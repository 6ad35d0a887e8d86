# ConvNeXt-T. It trains with AdamW, as transformers do, at the learning rate that MMDetection uses for Swin.
_base_ = './gfl_timm-resnet50_fpn_1x_coco.py'

model = dict(backbone=dict(model_name='convnext_tiny'))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0))
