# With DCNv2, which also weights its samples. MMDetection has no such config, and has published no AP.
_base_ = './gfl_r101-dconv-c3-c5_fpn_ms-2x_coco.py'
model = dict(backbone=dict(dcn=dict(type='DCNv2')))
