# ATSS, the baseline of all these studies: focal loss on classes, a centre-ness branch, boxes as four numbers.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # a branch brings its own, focal loss
        quality=dict(type='gfl_plugin.CenternessBranch'),
        loss_dfl=None,  # no distribution,
        reg_max=None,  # and no bins
        box=dict(type='gfl_plugin.DiracDelta')))
