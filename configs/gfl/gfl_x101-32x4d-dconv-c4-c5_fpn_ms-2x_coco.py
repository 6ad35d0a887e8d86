# Deformable convolutions. COCO minival box AP: not measured here yet. MMDetection published 48.1.
_base_ = './gfl_x101-32x4d_fpn_ms-2x_coco.py'
model = dict(
    backbone=dict(
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),  # needs no compiled mmcv
        stage_with_dcn=(False, False, True, True)))  # C4 and C5
