# Box on ATSS: any distribution, shaped by DFL. QFL x DFL: DFL alone.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # a branch brings its own, focal loss
        quality=dict(type='gfl_plugin.CenternessBranch')))
