# The exponent of QFL's modulating factor: 2.0 (the default).
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(bbox_head=dict(loss_cls=dict(beta=2.0)))
