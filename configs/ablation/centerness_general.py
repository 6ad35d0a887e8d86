# Box study on ATSS: any distribution over the bins. Only the GIoU loss of its mean trains it.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # the quality has its own, focal loss
        quality=dict(type='gfl_plugin.CenternessBranch'),
        loss_dfl=dict(loss_weight=0.0)))
