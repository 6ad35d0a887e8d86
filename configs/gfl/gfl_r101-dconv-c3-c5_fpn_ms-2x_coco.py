# Deformable convolutions. COCO minival box AP: not measured here yet. MMDetection published 47.1.
_base_ = './gfl_r101_fpn_ms-2x_coco.py'
model = dict(
    backbone=dict(
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),  # needs no compiled mmcv
        stage_with_dcn=(False, True, True, True)))  # C3 to C5
