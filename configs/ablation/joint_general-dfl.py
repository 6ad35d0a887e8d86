# GFL: QFL and DFL. It is the demo without a change, and has a file of its own so that the tables can name it.
_base_ = '../demo/gfl_r18_fpn_shapes.py'
