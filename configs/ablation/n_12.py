# The largest bin, in strides: 12.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(bbox_head=dict(reg_max=12))
