"""The Generalized Focal Loss head (arXiv:2006.04388) on MMDetection's interface of a dense head."""
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmcv.cnn import ConvModule, Scale
from mmdet.models.dense_heads import AnchorHead
from mmdet.models.task_modules import PseudoSampler
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import ConfigType, InstanceList, MultiConfig, OptConfigType, OptInstanceList, reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..decode import select_candidates
from ..functional.boxes import clip_boxes, iou
from ..functional.distributions import expectation
from ..functional.nms import class_aware_nms
from ..functional.priors import Cells, Places, PriorGrid, centers_and_strides, num_priors, read_maps, stack_grids
from ..losses.quality_focal import ClassCells
from ..registry import MODELS
from ..targets import Targets, count_positives, weigh_positives, weight_of_ranges
from .one_by_one import assign_one_by_one


class Integral(nn.Module):
    """Distances from the logits of their distributions (eq. 5); ``project``, the bins, is in published checkpoints."""

    def __init__(self, reg_max: int = 16) -> None:
        super().__init__()
        self.reg_max = reg_max
        self.register_buffer('project', torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, logits: Tensor) -> Tensor:
        """(N, 4(n+1)) logits to (N, 4) distances, in bins, which are strides."""
        return expectation(logits.reshape(-1, 4, self.reg_max + 1))


@MODELS.register_module()
class GFLHead(AnchorHead):
    """GFL head: a classification score that is the quality of its box, and boxes as a distribution of each side.

    A drop-in for MMDetection's GFLHead: the same arguments, state dict, losses and detections. Its losses, assigner and
    coder may be MMDetection's or the plugin's; with ``gfl_plugin.ATSSAssigner`` a batch is assigned at once, with
    ``gfl_plugin.QualityFocalLoss`` the class logits are swept once, in their own layout.

    Args:
        num_classes: C.
        in_channels: Channels of each feature map.
        stacked_convs: Convolutions of each of the two towers.
        conv_cfg, norm_cfg: Of the towers.
        loss_cls, loss_bbox, loss_dfl: Losses of joint score, box and distribution (QFL, GIoU, DFL).
        bbox_coder: Encodes and decodes distances.
        reg_max: n, the largest bin; a side is at most n strides from the centre of its prior.
        init_cfg: Initialization.

    Raises:
        ValueError: ``reg_max`` is below 1, or the anchor generator gives more than one prior a cell.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 stacked_convs: int = 4,
                 conv_cfg: OptConfigType = None,
                 norm_cfg: ConfigType = dict(type='GN', num_groups=32, requires_grad=True),
                 loss_cls: ConfigType = dict(type='gfl_plugin.QualityFocalLoss', use_sigmoid=True, beta=2.0),
                 loss_bbox: ConfigType = dict(type='gfl_plugin.GIoULoss', loss_weight=2.0),
                 loss_dfl: ConfigType = dict(type='gfl_plugin.DistributionFocalLoss', loss_weight=0.25),
                 bbox_coder: ConfigType = dict(type='gfl_plugin.DistancePointBBoxCoder'),
                 reg_max: int = 16,
                 init_cfg: MultiConfig = dict(
                     type='Normal', layer='Conv2d', std=0.01,
                     override=dict(type='Normal', name='gfl_cls', std=0.01, bias_prob=0.01)),
                 **kwargs) -> None:
        if reg_max < 1:
            raise ValueError(f'reg_max={reg_max} leaves fewer than two bins to a box side; it must be at least 1')
        self.stacked_convs, self.conv_cfg, self.norm_cfg, self.reg_max = stacked_convs, conv_cfg, norm_cfg, reg_max
        # MMDetection reads `use_sigmoid` from the config; joint scores are sigmoids whether it says so or not.
        super().__init__(num_classes, in_channels, bbox_coder=bbox_coder, loss_cls={'use_sigmoid': True, **loss_cls},
                         loss_bbox=loss_bbox, init_cfg=init_cfg, **kwargs)
        self.integral = Integral(reg_max)
        self.loss_dfl = MMDET_MODELS.build(loss_dfl)

    def _init_layers(self) -> None:
        if set(self.prior_generator.num_base_priors) != {1}:
            raise ValueError('GFLHead needs one prior a cell, and the anchor generator gives '
                             f'{self.prior_generator.num_base_priors}: one ratio, one scale per octave')
        self.cls_convs, self.reg_convs = self._tower(), self._tower()
        self.gfl_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
        self.gfl_reg = nn.Conv2d(self.feat_channels, 4 * (self.reg_max + 1), 3, padding=1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def _tower(self) -> nn.ModuleList:
        return nn.ModuleList(
            ConvModule(self.in_channels if i == 0 else self.feat_channels, self.feat_channels, 3, padding=1,
                       conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg) for i in range(self.stacked_convs))

    def forward(self, x: Sequence[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        """L feature maps (B, in_channels, H, W) to L score logits (B, C, H, W) and L side logits (B, 4(n+1), H, W)."""
        cls_scores, bbox_preds = zip(*map(self.forward_single, x, self.scales))
        return list(cls_scores), list(bbox_preds)

    def forward_single(self, x: Tensor, scale: Scale) -> Tuple[Tensor, Tensor]:
        cls_feat = reg_feat = x
        for cls_conv, reg_conv in zip(self.cls_convs, self.reg_convs):
            cls_feat, reg_feat = cls_conv(cls_feat), reg_conv(reg_feat)
        return self.gfl_cls(cls_feat), scale(self.gfl_reg(reg_feat)).float()

    def prior_grids(self, maps: Sequence[Tensor]) -> List[PriorGrid]:
        """The grid of priors of each of L maps (B, _, H, W)."""
        bases = [base[0].tolist() for base in self.prior_generator.base_anchors]
        return stack_grids([m.shape[-2:] for m in maps], self.prior_generator.strides, bases)

    # ---- training ----

    def loss_by_feat(self, cls_scores: List[Tensor], bbox_preds: List[Tensor], batch_gt_instances: InstanceList,
                     batch_img_metas: List[dict],
                     batch_gt_instances_ignore: OptInstanceList = None) -> Dict[str, Tensor]:
        """QFL, GIoU loss and DFL of a batch, each a scalar over all levels (MMDetection's lists, summed).

        Args:
            cls_scores, bbox_preds: From :meth:`forward`.
            batch_gt_instances: B instances with ``bboxes`` (G, 4), pixels, and ``labels`` (G,).
            batch_img_metas: B dicts with ``img_shape`` and ``pad_shape``.
            batch_gt_instances_ignore: B instances with ``bboxes`` to be ignored.

        Raises:
            ValueError: No prior of an image may be used, for ``allowed_border``.
        """
        with torch.autocast(cls_scores[0].device.type, enabled=False):
            grids = self.prior_grids(cls_scores)
            targets = self._targets(grids, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
            cells = targets.places.cells(grids)
            sides = read_maps(bbox_preds, cells).float().unflatten(1, (4, self.reg_max + 1))
            # In strides, so that no loss depends on the level.
            centers, strides = centers_and_strides(cells, grids)
            points, boxes = centers / strides, targets.box / strides.repeat(1, 2)
            decoded = self.bbox_coder.decode(points, expectation(sides))
            quality = iou(decoded.detach(), boxes)

            # A positive counts in the box losses by how sure of it the classification is (not in the paper).
            weight = read_maps([c.detach() for c in cls_scores], cells).float().amax(1).sigmoid()
            if targets.valid is not None:
                weight = weight * targets.valid
            box_factor = reduce_mean(weight.sum()).clamp(min=1)
            distances = self.bbox_coder.encode(points, boxes, self.reg_max)
            return dict(
                loss_cls=self._loss_cls(cls_scores, targets, cells, quality),
                loss_bbox=self.loss_bbox(decoded, boxes, weight=weight, avg_factor=1.0) / box_factor,
                loss_dfl=self.loss_dfl(sides.flatten(0, 1), distances.flatten(),
                                       weight=weight.repeat_interleave(4), avg_factor=4.0) / box_factor)

    def _loss_cls(self, cls_scores: List[Tensor], targets: Targets, cells: List[Cells], quality: Tensor) -> Tensor:
        """Joint loss with the qualities (K,) at the classes of the positives, 0 elsewhere."""
        factor = reduce_mean(targets.num_positives)
        if hasattr(self.loss_cls, 'forward_maps'):
            return self.loss_cls.forward_maps(cls_scores, *self._by_level(cls_scores, targets, cells, quality), factor)

        # MMDetection's losses take one row a prior, in one list for all images.
        logits = torch.cat([c.flatten(2) for c in cls_scores], 2).transpose(1, 2).float()  # (B, P, C)
        shape, valid = logits.shape[:2], slice(None) if targets.valid is None else targets.valid
        place = targets.places.image[valid], targets.places.prior[valid]
        label = targets.label.new_full(shape, self.num_classes).index_put(place, targets.label[valid])
        score = logits.new_zeros(shape).index_put(place, quality[valid])
        weight = logits.new_ones(shape) if targets.weight is None else targets.weight
        return self.loss_cls(logits.flatten(0, 1), (label.flatten(), score.flatten()), weight=weight.flatten(),
                             avg_factor=factor)

    @staticmethod
    def _by_level(cls_scores: List[Tensor], targets: Targets, cells: List[Cells], quality: Tensor) -> tuple:
        """For each level the places of its positives, their qualities, and the weight (B, H, W) of its priors."""
        sizes = targets.places.sizes
        valid = [None] * len(cells) if targets.valid is None else targets.valid.split(sizes)
        places = [ClassCells(image, label, row, column, v)
                  for (image, row, column), label, v in zip(cells, targets.label.split(sizes), valid)]
        weight = targets.weight
        if weight is not None:
            parts = weight.split([m[0, 0].numel() for m in cls_scores], 1)
            weight = [part.view(m[:, 0].shape) for part, m in zip(parts, cls_scores)]
        return places, quality.split(sizes), weight

    def _targets(self, grids: List[PriorGrid], batch_gt_instances: InstanceList, batch_img_metas: List[dict],
                 batch_gt_instances_ignore: OptInstanceList) -> Targets:
        border = self.train_cfg['allowed_border']
        ranges = [[g.cells_in(meta['img_shape'][:2], meta['pad_shape'][:2], border) for g in grids]
                  for meta in batch_img_metas]
        for meta, image_ranges in zip(batch_img_metas, ranges):
            if not any(x1 > x0 and y1 > y0 for x0, y0, x1, y1 in image_ranges):
                raise ValueError(f'no prior lies within allowed_border={border} pixels of an image of '
                                 f'{tuple(meta["img_shape"][:2])}: set allowed_border=-1')
        boxes = [get_box_tensor(gt.bboxes) for gt in batch_gt_instances]
        device = boxes[0].device
        gt_boxes = torch.cat(boxes).float()
        gt_labels = torch.cat([gt.labels for gt in batch_gt_instances])
        ignores = batch_gt_instances_ignore or [None] * len(boxes)

        if self._assigns_batches(ignores):
            counts = torch.tensor([len(b) for b in boxes])
            gt_image = torch.arange(len(boxes)).repeat_interleave(counts).to(device, non_blocking=True)
            assignment = self.assigner.assign_batch(grids, ranges, gt_boxes, gt_image)
            weight = weight_of_ranges(grids, ranges, device)
            factor = count_positives(assignment.places.image, assignment.valid, len(boxes))
        else:
            instances = [InstanceData(bboxes=b, labels=gt.labels) for b, gt in zip(boxes, batch_gt_instances)]
            assignment, weight, factor = assign_one_by_one(self.assigner, self.sampler, grids, ranges, instances,
                                                           ignores)
        if self.train_cfg['pos_weight'] > 0:
            weight = weigh_positives(weight, assignment, self.train_cfg['pos_weight'], (len(boxes), num_priors(grids)))
        return Targets(assignment.places, gt_boxes[assignment.gt], gt_labels[assignment.gt], assignment.valid, weight,
                       factor)

    def _assigns_batches(self, ignores: Sequence[Optional[InstanceData]]) -> bool:
        if not hasattr(self.assigner, 'assign_batch') or type(self.sampler) is not PseudoSampler:
            return False
        # Ignored regions take priors out of the regular grid.
        return self.assigner.ignore_iof_thr <= 0 or all(i is None or not len(i.bboxes) for i in ignores)

    # ---- prediction ----

    def predict_by_feat(self,
                        cls_scores: List[Tensor],
                        bbox_preds: List[Tensor],
                        score_factors: Optional[List[Tensor]] = None,
                        batch_img_metas: Optional[List[dict]] = None,
                        cfg: OptConfigType = None,
                        rescale: bool = False,
                        with_nms: bool = True) -> InstanceList:
        """Detections of each image, best first.

        Args:
            cls_scores, bbox_preds: From :meth:`forward`.
            score_factors: None; MMDetection's signature.
            batch_img_metas: B dicts with ``img_shape`` and, for ``rescale``, ``scale_factor``.
            cfg: Instead of ``test_cfg``.
            rescale: Whether boxes are in pixels of the original image rather than of the network's input.
            with_nms: Without it, all candidates (test-time augmentation merges them first).

        Returns:
            B instances with ``bboxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,).
        """
        cfg = self.test_cfg if cfg is None else cfg
        cls_scores, bbox_preds = ([m.detach() for m in maps] for maps in (cls_scores, bbox_preds))
        grids = self.prior_grids(cls_scores)
        found = select_candidates(cls_scores, grids, cfg.get('score_thr', 0), cfg.get('nms_pre', -1))
        image, scores, labels = found.places.image, found.score, found.label
        boxes = self._decode(bbox_preds, grids, found.places, [meta['img_shape'][:2] for meta in batch_img_metas])
        if rescale:
            factors = boxes.new_tensor([[1 / s for s in meta['scale_factor']] for meta in batch_img_metas])
            boxes = boxes * factors.repeat(1, 2)[image]

        usable = boxes.isfinite().all(1)  # from features that are not
        if cfg.get('min_bbox_size', -1) >= 0:
            usable &= (boxes[:, 2:] - boxes[:, :2] > cfg.min_bbox_size).all(1)
        keep = usable.nonzero()[:, 0]
        if with_nms and _is_plain(cfg.nms):
            keep = keep[class_aware_nms(boxes[keep], scores[keep], labels[keep], image[keep], cfg.nms.iou_threshold,
                                        cfg.get('max_per_img', -1), cfg.nms.get('class_agnostic', False))]
        else:
            keep = keep[image[keep].argsort(stable=True)]
        fields = dict(bboxes=boxes[keep], scores=scores[keep], labels=labels[keep])
        counts = image[keep].bincount(minlength=len(batch_img_metas)).tolist()
        results = [InstanceData(**dict(zip(fields, parts)))
                   for parts in zip(*(field.split(counts) for field in fields.values()))]
        if with_nms and not _is_plain(cfg.nms):  # soft-NMS and others of mmcv, an image at a time
            results = [self._bbox_post_process(result, cfg, False, True, meta)
                       for result, meta in zip(results, batch_img_metas)]
        return results

    def _decode(self, bbox_preds: List[Tensor], grids: List[PriorGrid], places: Places,
                img_shapes: Sequence[Sequence[int]]) -> Tensor:
        """(K, 4) boxes in pixels at the places, cut to their images."""
        cells = places.cells(grids)
        centers, strides = centers_and_strides(cells, grids)
        distances = expectation(read_maps(bbox_preds, cells).unflatten(1, (4, self.reg_max + 1))) * strides.repeat(1, 2)
        boxes = self.bbox_coder.decode(centers, distances)
        if not getattr(self.bbox_coder, 'clip_border', True):
            return boxes
        return clip_boxes(boxes, torch.tensor(img_shapes).to(boxes.device, non_blocking=True)[places.image])


def _is_plain(nms: ConfigType) -> bool:
    """Whether a config of mmcv's NMS asks for what :func:`class_aware_nms` does."""
    return nms.get('type', 'nms') == 'nms' and nms.keys() <= {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
