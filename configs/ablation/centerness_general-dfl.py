# Box study on ATSS: any distribution over the bins, trained by DFL too. In table 3 it is the row of DFL alone.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # the quality has its own, focal loss
        quality=dict(type='gfl_plugin.CenternessBranch')))
