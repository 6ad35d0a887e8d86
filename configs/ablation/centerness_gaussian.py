# Box study on ATSS: each side has a mean and a spread.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=None,  # the quality has its own, focal loss
        quality=dict(type='gfl_plugin.CenternessBranch'),
        loss_dfl=None,  # there is no distribution to train
        reg_max=None,  # there are no bins
        box=dict(type='gfl_plugin.GaussianDistribution')))
