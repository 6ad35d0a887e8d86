# GFLv2: the shape of the distributions guides the quality (arXiv:2011.12885).
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(bbox_head=dict(type='gfl_plugin.GFLV2Head'))
