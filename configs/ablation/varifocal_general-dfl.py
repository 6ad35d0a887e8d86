# VFL instead of QFL, nothing else changed.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # VFL is the quality's own
        quality=dict(type='gfl_plugin.VarifocalQuality')))
