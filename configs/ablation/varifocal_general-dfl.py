# GFL with VFL instead of QFL.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # the quality has its own, VFL
        quality=dict(type='gfl_plugin.VarifocalQuality')))
