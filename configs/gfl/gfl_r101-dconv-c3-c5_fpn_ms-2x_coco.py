# Deformable convolutions. COCO minival box AP: not yet measured here; 47.1 published by MMDetection.
_base_ = './gfl_r101_fpn_ms-2x_coco.py'
model = dict(
    backbone=dict(
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),  # a compiled mmcv's, torchvision's or ours
        stage_with_dcn=(False, True, True, True)))  # C3 to C5
