# QFL x DFL: both. This is GFL, and the demo as it is; here to have a name among the rows of the tables.
_base_ = '../demo/gfl_r18_fpn_shapes.py'
