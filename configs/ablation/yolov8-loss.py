# The losses of YOLOv8, their kinds and weights: binary cross-entropy towards the quality, CIoU, DFL over 16 + 1 bins.
# Assignment stays ATSS, and a quality is an IoU, not YOLOv8's task-aligned metric.
_base_ = '../demo/gfl_r18_fpn_shapes.py'

model = dict(
    bbox_head=dict(
        loss_cls=dict(beta=0.0, loss_weight=0.5),  # QFL without its modulating factor is binary cross-entropy
        loss_bbox=dict(type='gfl_plugin.CIoULoss', loss_weight=7.5),
        loss_dfl=dict(loss_weight=1.5)))
