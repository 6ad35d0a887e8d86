# Quality on ATSS: one score for class and IoU (QFL) instead of a branch. QFL x DFL: QFL alone.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_dfl=None,  # no distribution,
        reg_max=None,  # and no bins
        box=dict(type='gfl_plugin.DiracDelta')))
