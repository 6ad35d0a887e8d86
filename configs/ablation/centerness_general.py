# Box on ATSS: any distribution over the bins, which GIoU loss on its mean alone shapes.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # a branch brings its own, focal loss
        quality=dict(type='gfl_plugin.CenternessBranch'),
        loss_dfl=dict(loss_weight=0.0)))
