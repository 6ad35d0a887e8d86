# Quality on ATSS: an IoU branch instead of centre-ness.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # a branch brings its own, focal loss
        quality=dict(type='gfl_plugin.IoUBranch'),
        loss_dfl=None,  # no distribution,
        reg_max=None,  # and no bins
        box=dict(type='gfl_plugin.DiracDelta')))
