"""The Generalized Focal Loss head (arXiv:2006.04388) on MMDetection's interface of a dense head."""
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmcv.cnn import ConvModule, Scale
from mmdet.models.dense_heads import AnchorHead
from mmdet.models.task_modules import PseudoSampler
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import ConfigType, InstanceList, MultiConfig, OptConfigType, OptInstanceList, reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..decode import select_candidates
from ..functional.boxes import clip_boxes
from ..functional.nms import class_aware_nms
from ..functional.priors import Places, PriorGrid, num_priors, read_maps, read_priors, stack_grids
from ..registry import BOXES, MODELS, QUALITIES
from ..targets import Positives, Targets, count_positives, weigh_positives, weight_of_ranges
from .axes import build_kind, choose_kind
from .one_by_one import assign_one_by_one


@MODELS.register_module()
class GFLHead(AnchorHead):
    """A dense head along two axes: what the classification score means, and what a side of a box is.

    By default, JointQuality and GeneralDistribution, it is GFL and a drop-in for MMDetection's GFLHead: the same
    arguments, state dict, losses and detections; with CenternessBranch and DiracDelta it is its ATSSHead. Losses,
    assigner and coder may be MMDetection's or the plugin's; with ``gfl_plugin.ATSSAssigner`` a batch is assigned at
    once, with the plugin's classification losses the class logits are swept once, in their own layout.

    Args:
        num_classes: C.
        in_channels: Channels of each feature map.
        stacked_convs: Convolutions of each of the two towers.
        conv_cfg, norm_cfg: Of the towers.
        loss_bbox: Loss of decoded boxes, in strides.
        loss_cls: Classification loss of the default quality (QFL); another one brings its own.
        loss_dfl, bbox_coder, reg_max: Of the default kind of box: loss of its distributions (DFL), what encodes and
            decodes distances, and n, the largest bin; a side is at most n strides from the centre of its prior.
        init_cfg: Initialization; by default that of the paper, with scores of 0.01 to start with.
        quality: One of :mod:`gfl_plugin.heads.quality`, as a config or by its type alone.
        box: One of :mod:`gfl_plugin.heads.box`, likewise.

    Raises:
        SetupError: ``quality`` or ``box`` is none of the kinds there are, or comes with arguments of the default one.
        ValueError: The anchor generator gives more than one prior a cell, or a kind refuses its arguments.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 stacked_convs: int = 4,
                 conv_cfg: OptConfigType = None,
                 norm_cfg: ConfigType = dict(type='GN', num_groups=32, requires_grad=True),
                 loss_cls: OptConfigType = None,
                 loss_bbox: ConfigType = dict(type='gfl_plugin.GIoULoss', loss_weight=2.0),
                 loss_dfl: OptConfigType = None,
                 bbox_coder: OptConfigType = None,
                 reg_max: Optional[int] = None,
                 init_cfg: MultiConfig = None,
                 quality: Union[OptConfigType, str] = None,
                 box: Union[OptConfigType, str] = None,
                 **kwargs) -> None:
        self.stacked_convs, self.conv_cfg, self.norm_cfg = stacked_convs, conv_cfg, norm_cfg
        self.axes = (choose_kind('quality', quality, 'JointQuality', loss_cls=loss_cls),
                     choose_kind('box', box, 'GeneralDistribution', loss_dfl=loss_dfl, bbox_coder=bbox_coder,
                                 reg_max=reg_max))
        # The class loss and the coder, which MMDetection builds here, are the kinds' (_init_layers).
        super().__init__(num_classes, in_channels, loss_bbox=loss_bbox, init_cfg=init_cfg,
                         loss_cls=dict(type='gfl_plugin.QualityFocalLoss', use_sigmoid=True), **kwargs)
        self.loss_cls, self.bbox_coder = self.quality.loss_cls, self.box.bbox_coder
        if init_cfg is None:
            self.init_cfg = dict(
                type='Normal', layer='Conv2d', std=0.01,
                override=dict(type='Normal', name=self.quality.cls_layer, std=0.01, bias_prob=0.01))

    def _init_layers(self) -> None:
        if set(self.prior_generator.num_base_priors) != {1}:
            raise ValueError('GFLHead needs one prior a cell, and the anchor generator gives '
                             f'{self.prior_generator.num_base_priors}: one ratio, one scale per octave')
        # Read once: numbers on the host, whatever is traced.
        self.prior_bases = [base[0].tolist() for base in self.prior_generator.base_anchors]
        self.quality, self.box = (build_kind(*kind) for kind in zip((QUALITIES, BOXES), self.axes))
        self.cls_convs, self.reg_convs = self._tower(), self._tower()
        for name, layer in {**self.quality.layers(self.feat_channels, self.num_classes),
                            **self.box.layers(self.feat_channels)}.items():
            self.add_module(name, layer)  # here rather than in the kinds, for the names that checkpoints have
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def _tower(self) -> nn.ModuleList:
        return nn.ModuleList(
            ConvModule(self.in_channels if i == 0 else self.feat_channels, self.feat_channels, 3, padding=1,
                       conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg) for i in range(self.stacked_convs))

    def forward(self, x: Sequence[Tensor]) -> Tuple[List[Tensor], ...]:
        """L feature maps (B, in_channels, H, W) to L score logits (B, C, H, W) and L box maps (B, D, H, W).

        And, where the quality has a branch, to L of its logits (B, 1, H, W).
        """
        return tuple(map(list, zip(*map(self.forward_single, x, self.scales))))

    def forward_single(self, x: Tensor, scale: Scale) -> Tuple[Tensor, ...]:
        cls_feat = reg_feat = x
        for cls_conv, reg_conv in zip(self.cls_convs, self.reg_convs):
            cls_feat, reg_feat = cls_conv(cls_feat), reg_conv(reg_feat)
        maps = [getattr(self, self.quality.cls_layer)(cls_feat),
                scale(getattr(self, self.box.reg_layer)(reg_feat)).float()]
        if self.quality.branch_layer is not None:
            maps.append(getattr(self, self.quality.branch_layer)(reg_feat))
        return tuple(maps)

    def prior_grids(self, maps: Sequence[Tensor]) -> List[PriorGrid]:
        """The grid of priors of each of L maps (B, _, H, W)."""
        return stack_grids([m.shape[-2:] for m in maps], self.prior_generator.strides, self.prior_bases)

    # ---- training ----

    def loss_by_feat(self, cls_scores: List[Tensor], bbox_preds: List[Tensor], *inputs, **named) -> Dict[str, Tensor]:
        """The losses of a batch, each a scalar over all levels (MMDetection's lists, summed).

        Args:
            cls_scores, bbox_preds: From :meth:`forward`.
            inputs, named: What MMDetection gives next: the branch's maps, if the quality has one, and then what
                :meth:`losses` takes.
        """
        if self.quality.branch_layer is None:
            return self.losses(cls_scores, bbox_preds, None, *inputs, **named)
        return self.losses(cls_scores, bbox_preds, *inputs, **named)

    def losses(self, cls_scores: List[Tensor], bbox_preds: List[Tensor], branch: Optional[List[Tensor]],
               batch_gt_instances: InstanceList, batch_img_metas: List[dict],
               batch_gt_instances_ignore: OptInstanceList = None) -> Dict[str, Tensor]:
        """Those of the quality, of the decoded boxes, and of the kind of box.

        Args:
            cls_scores, bbox_preds, branch: From :meth:`forward`.
            batch_gt_instances: B instances with ``bboxes`` (G, 4), pixels, and ``labels`` (G,).
            batch_img_metas: B dicts with ``img_shape`` and ``pad_shape``.
            batch_gt_instances_ignore: B instances with ``bboxes`` to be ignored.

        Raises:
            ValueError: No prior of an image may be used, for ``allowed_border``.
        """
        with torch.autocast(cls_scores[0].device.type, enabled=False):
            grids = self.prior_grids(cls_scores)
            targets = self.assign_targets(grids, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
            positives = self._positives(bbox_preds, grids, targets)
            losses, weight = self.quality(cls_scores, branch, targets, positives)
            if targets.valid is not None:
                weight = weight * targets.valid
            factor = reduce_mean(weight.sum()).clamp(min=1)
            losses['loss_bbox'] = self.loss_bbox(positives.decoded, positives.box, weight=weight,
                                                 avg_factor=1.0) / factor
            losses.update(self.box.losses(positives, weight, factor))
            return losses

    def _positives(self, bbox_preds: List[Tensor], grids: List[PriorGrid], targets: Targets) -> Positives:
        cells = targets.places.cells(grids)
        in_pixels = read_priors(cells, grids)
        # In strides, so that no loss depends on the level.
        priors, box = in_pixels.in_strides(), targets.box / in_pixels.stride.repeat(1, 2)
        raw = read_maps(bbox_preds, cells).float()
        return Positives(cells, priors, raw, self.box.decode(raw, priors), box)

    def assign_targets(self, grids: List[PriorGrid], batch_gt_instances: InstanceList, batch_img_metas: List[dict],
                       batch_gt_instances_ignore: OptInstanceList = None) -> Targets:
        """The positives of a batch on L grids, and what they are trained towards; arguments as of :meth:`losses`.

        Raises:
            ValueError: No prior of an image may be used, for ``allowed_border``.
        """
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
            gt_image = torch.arange(len(boxes)).repeat_interleave(
                torch.tensor([len(b) for b in boxes]), output_size=len(gt_boxes)).to(device, non_blocking=True)
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
                       reduce_mean(factor))

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
            score_factors: The branch's maps, if the quality has one.
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
        if score_factors is not None:  # after the threshold and the choice of the best: as in MMDetection
            scores = scores * read_maps(score_factors, found.places.cells(grids)).detach().float()[:, 0].sigmoid()
        boxes = self.boxes_at(bbox_preds, grids, found.places, [meta['img_shape'][:2] for meta in batch_img_metas])
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

    @staticmethod
    def scores_of_all(cls_scores: List[Tensor], score_factors: Optional[List[Tensor]] = None) -> Tensor:
        """(B, P, C) what detections are ranked by, of every prior and class, from the maps of :meth:`forward`."""
        scores = torch.cat([m.flatten(2) for m in cls_scores], 2).float().sigmoid()
        if score_factors is not None:
            scores = scores * torch.cat([m.flatten(2) for m in score_factors], 2).float().sigmoid()
        return scores.transpose(1, 2)

    def boxes_at(self, bbox_preds: List[Tensor], grids: List[PriorGrid], places: Places,
                 img_shapes: Sequence[Sequence[int]]) -> Tensor:
        """(K, 4) boxes of detections, in pixels, at the places, cut to their images of heights and widths (B, 2)."""
        cells = places.cells(grids)
        boxes = self.box.detect(read_maps(bbox_preds, cells), read_priors(cells, grids))
        if not getattr(self.bbox_coder, 'clip_border', True):
            return boxes
        return clip_boxes(boxes, torch.tensor(img_shapes).to(boxes.device, non_blocking=True)[places.image])


def _is_plain(nms: ConfigType) -> bool:
    """Whether a config of mmcv's NMS asks for what :func:`class_aware_nms` does."""
    return nms.get('type', 'nms') == 'nms' and nms.keys() <= {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
