# The exponent of QFL's modulating factor: 0.0 (binary cross-entropy).
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(bbox_head=dict(loss_cls=dict(beta=0.0)))
