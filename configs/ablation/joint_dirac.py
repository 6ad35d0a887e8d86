# Quality study on ATSS: one score for class and IoU instead of a branch. In table 3 it is the row of QFL alone.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_dfl=None,  # there is no distribution to train
        reg_max=None,  # there are no bins
        box=dict(type='gfl_plugin.DiracDelta')))
