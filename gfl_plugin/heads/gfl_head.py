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

from ..candidates import select_candidates
from ..errors import SetupError
from ..functional.boxes import clip_boxes
from ..functional.nms import class_aware_nms
from ..functional.priors import PriorGrid, PriorIndex, Priors, stack_grids
from ..matches import GroundTruths, Matches, gather_positives
from ..predictions import Peek, Predictions
from ..registry import BOXES, MODELS, QUALITIES
from .build_axes import build_kind, choose_kind, require_assigner, require_distributions
from .mmdet_assigners import match_by_image, require_fit


@MODELS.register_module()
class GFLHead(AnchorHead):
    """A dense head with three axes: what the classification score means, what a box side is, and who is trained.

    The defaults, JointQuality and GeneralDistribution, make it GFL. It is then a drop-in for MMDetection's GFLHead,
    with the same arguments, state dict, losses and detections. CenternessBranch and DiracDelta make it MMDetection's
    ATSSHead. Losses and assigner may be MMDetection's or the plugin's. The plugin's assigners match a whole batch at
    once, and its classification losses are computed on the class maps as they are.

    Args:
        num_classes: C.
        in_channels: Channels of each feature map.
        stacked_convs: Convolutions in each of the two towers.
        conv_cfg, norm_cfg: Of the towers.
        loss_bbox: Loss of decoded boxes, in strides.
        loss_cls: Classification loss of the default quality (QFL). Any other quality has its own argument.
        loss_dfl, bbox_coder, reg_max: Arguments of the default box: the loss of its distributions (DFL), the coder, and
            n, the largest bin. A side is at most n strides from the centre of its prior.
        init_cfg: Initialization. By default the paper's, where every class score starts at 0.01.
        quality: One of :mod:`gfl_plugin.quality`, as a config or by its type alone.
        box: One of :mod:`gfl_plugin.box`, likewise.
        kwargs: Arguments of MMDetection's AnchorHead. ``train_cfg.assigner`` is one of :mod:`gfl_plugin.assigners` or
            MMDetection's.

    Raises:
        SetupError: ``quality``, ``box`` or the assigner does not exist, does not fit the others, or comes with
            arguments of the default. Or ``test_cfg`` asks for distributions that the box does not predict.
        ValueError: The anchor generator gives more than one prior per cell, or a kind refuses its arguments.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4, conv_cfg: OptConfigType = None,
                 norm_cfg: ConfigType = dict(type='GN', num_groups=32, requires_grad=True),
                 loss_cls: OptConfigType = None,
                 loss_bbox: ConfigType = dict(type='gfl_plugin.GIoULoss', loss_weight=2.0),
                 loss_dfl: OptConfigType = None, bbox_coder: OptConfigType = None, reg_max: Optional[int] = None,
                 init_cfg: MultiConfig = None, quality: Union[OptConfigType, str] = None,
                 box: Union[OptConfigType, str] = None, **kwargs) -> None:
        self.stacked_convs, self.conv_cfg, self.norm_cfg = stacked_convs, conv_cfg, norm_cfg
        self.kinds = (choose_kind('quality', quality, 'JointQuality', loss_cls=loss_cls),
                      choose_kind('box', box, 'GeneralDistribution', loss_dfl=loss_dfl, bbox_coder=bbox_coder,
                                  reg_max=reg_max))
        if kwargs.get('train_cfg'):
            require_assigner(kwargs['train_cfg']['assigner'])
        # MMDetection builds a class loss and a coder here; those of the quality and the box replace them below.
        super().__init__(num_classes, in_channels, loss_bbox=loss_bbox, init_cfg=init_cfg,
                         loss_cls=dict(type='gfl_plugin.QualityFocalLoss', use_sigmoid=True), **kwargs)
        self.loss_cls, self.bbox_coder = self.quality.loss_cls, self.box.bbox_coder
        require_distributions(self.box, self.test_cfg)
        if self.train_cfg:
            require_fit(self.assigner, self.sampler)
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
        self.quality, self.box = (build_kind(*kind) for kind in zip((QUALITIES, BOXES), self.kinds))
        self.quality.check(self.box)
        self.cls_convs, self.reg_convs = self._tower(), self._tower()
        # The head registers the layers of its kinds, so that they have the names of published checkpoints.
        for name, layer in {**self.quality.layers(self.feat_channels, self.num_classes),
                            **self.box.layers(self.feat_channels)}.items():
            self.add_module(name, layer)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def _tower(self) -> nn.ModuleList:
        return nn.ModuleList(
            ConvModule(self.in_channels if i == 0 else self.feat_channels, self.feat_channels, 3, padding=1,
                       conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg) for i in range(self.stacked_convs))

    def forward(self, x: Sequence[Tensor]) -> Tuple[List[Tensor], ...]:
        """Predict the maps of L levels from L feature maps (B, in_channels, H, W).

        Returns:
            L class maps (B, C, H, W), logits; L box maps (B, D, H, W), fp32; and, if the quality has a branch, L of its
            maps (B, 1, H, W), logits.

        Raises:
            SetupError: The number of feature maps differs from the number of strides.
        """
        self._require_levels(x)
        return tuple(map(list, zip(*map(self.forward_single, x, self.scales))))

    def forward_single(self, x: Tensor, scale: Scale) -> Tuple[Tensor, ...]:
        """:meth:`forward` of one level."""
        cls_feat = reg_feat = x
        for cls_conv, reg_conv in zip(self.cls_convs, self.reg_convs):
            cls_feat, reg_feat = cls_conv(cls_feat), reg_conv(reg_feat)
        box_map = scale(self.box.maps(self, reg_feat)).float()
        cls_map, *branch = self.quality.maps(self, cls_feat, reg_feat, box_map)
        return cls_map, box_map, *branch

    def _require_levels(self, maps: Sequence[Tensor]) -> None:
        strides = self.prior_generator.strides
        if len(maps) != len(strides):
            raise SetupError(f'The head gets {len(maps)} feature maps, and its anchor generator has {len(strides)} '
                             f'strides, {strides}: set num_outs of the neck and the strides to equal numbers')

    def prior_grids(self, maps: Sequence[Tensor]) -> List[PriorGrid]:
        """The grid of priors of each of L maps (B, _, H, W)."""
        self._require_levels(maps)
        return stack_grids([m.shape[-2:] for m in maps], self.prior_generator.strides, self.prior_bases)

    def predictions(self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor],
                    branch: Optional[Sequence[Tensor]] = None) -> Predictions:
        """The maps of :meth:`forward` with their grids."""
        return Predictions(cls_scores, bbox_preds, branch, self.prior_grids(cls_scores))

    # ---- training ----

    def loss_by_feat(self, cls_scores: List[Tensor], bbox_preds: List[Tensor], *inputs,
                     **named) -> Dict[str, List[Tensor]]:
        """All losses of a batch, in the order of eq. 8: classification (L_Q), boxes (L_B), and the box's own (L_D).

        Args:
            cls_scores, bbox_preds: From :meth:`forward`.
            inputs, named: What MMDetection gives next: the branch's maps, if the quality has a branch, and then the
                arguments of :meth:`ground_truths`.

        Returns:
            Named losses, fp32, each as a list of one scalar. MMDetection gives lists over levels, and its users sum
            them.

        Raises:
            SetupError: The number of maps differs from the number of strides.
            ValueError: No prior of an image may be used, because of ``allowed_border``.
        """
        branch, inputs = (inputs[0], inputs[1:]) if self.quality.has_branch else (None, inputs)
        with torch.autocast(cls_scores[0].device.type, enabled=False):  # losses are computed in fp32
            pred = self.predictions(cls_scores, bbox_preds, branch)
            truth = self.ground_truths(pred.grids, *inputs, **named)
            matches = self.match(pred, truth)
            pos = gather_positives(pred, matches, truth, self.box)
            target, box_weight = self.quality.targets(pred, matches, pos)
            if matches.valid is not None:
                box_weight = box_weight.where(matches.valid, 0)  # not a product: NaN * 0 is NaN
            # Both normalisers are averaged over ranks, and stay on the device.
            norms = torch.stack([self.quality.normaliser(matches), box_weight.sum()])
            n_cls, n_box = reduce_mean(norms).clamp(min=1).unbind()
            losses = self.quality.losses(pred, matches, pos, target, n_cls)
            losses['loss_bbox'] = self.loss_bbox(pos.decoded, pos.gt_boxes, weight=box_weight, avg_factor=1.0) / n_box
            losses.update(self.box.losses(pos, box_weight, n_box))
        return {name: [loss] for name, loss in losses.items()}

    def ground_truths(self, grids: List[PriorGrid], batch_gt_instances: InstanceList, batch_img_metas: List[dict],
                      batch_gt_instances_ignore: OptInstanceList = None) -> GroundTruths:
        """Join the objects of a batch.

        Args:
            grids: L levels.
            batch_gt_instances: B instances with ``bboxes`` (G, 4), pixels, and ``labels`` (G,).
            batch_img_metas: B dicts with ``img_shape`` and ``pad_shape``.
            batch_gt_instances_ignore: B instances with ``bboxes`` to be ignored.

        Raises:
            ValueError: No prior of an image may be used, because of ``allowed_border``.
        """
        border = self.train_cfg['allowed_border']
        usable_cells = [[g.cells_in(meta['img_shape'][:2], meta['pad_shape'][:2], border) for g in grids]
                        for meta in batch_img_metas]
        for meta, cells in zip(batch_img_metas, usable_cells):
            if not any(x1 > x0 and y1 > y0 for x0, y0, x1, y1 in cells):
                raise ValueError(f'no prior lies within allowed_border={border} pixels of an image of '
                                 f'{tuple(meta["img_shape"][:2])}: set allowed_border=-1')
        ignored = [None if gt is None or not len(gt.bboxes) else get_box_tensor(gt.bboxes)
                   for gt in batch_gt_instances_ignore or [None] * len(usable_cells)]
        return GroundTruths.of([get_box_tensor(gt.bboxes) for gt in batch_gt_instances],
                               [gt.labels for gt in batch_gt_instances], ignored, usable_cells, self.num_classes)

    @torch.no_grad()
    def match(self, pred: Predictions, truth: GroundTruths) -> Matches:
        """Match priors to the ground truths of a batch, by ``train_cfg.assigner``."""
        peek = Peek(pred, self.box)
        # Ignored boxes take priors out of the regular grid, which ATSS for a batch relies on.
        is_regular = getattr(self.assigner, 'ignore_iof_thr', 0) <= 0 or all(boxes is None for boxes in truth.ignored)
        if hasattr(self.assigner, 'match') and type(self.sampler) is PseudoSampler and is_regular:
            matches = self.assigner.match(pred.grids, truth, peek)
        else:
            matches = match_by_image(self.assigner, self.sampler, pred.grids, truth, peek)
        pos_weight = self.train_cfg['pos_weight']
        return matches if pos_weight <= 0 else matches.with_pos_weight(pos_weight, pred.grids, len(truth.counts))

    # ---- prediction ----

    def predict_by_feat(self, cls_scores: List[Tensor], bbox_preds: List[Tensor],
                        score_factors: Optional[List[Tensor]] = None, batch_img_metas: Optional[List[dict]] = None,
                        cfg: OptConfigType = None, rescale: bool = False, with_nms: bool = True) -> InstanceList:
        """Detections of each image, best first.

        Args:
            cls_scores, bbox_preds: From :meth:`forward`.
            score_factors: The branch's maps, if the quality has a branch.
            batch_img_metas: B dicts with ``img_shape`` and, for ``rescale``, ``scale_factor``.
            cfg: Replaces ``test_cfg``. With ``uncertainty=True`` and ``distributions=True`` it asks for what
                :meth:`distributions_at` returns; boxes, scores and their order stay the same.
            rescale: Whether boxes are in pixels of the original image rather than of the network's input.
            with_nms: Without it, all candidates are returned (test-time augmentation merges them first).

        Returns:
            B instances with ``bboxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,), and on request ``side_std``
            (N, 4), ``side_places`` (N, 4, n+1) and ``side_probs`` (N, 4, n+1), in the pixels of the boxes.

        Raises:
            SetupError: ``cfg`` asks for distributions that the box does not predict.
        """
        cfg = self.test_cfg if cfg is None else cfg
        require_distributions(self.box, cfg)
        pred = self.predictions(*(maps if maps is None else [m.detach() for m in maps]
                                  for maps in (cls_scores, bbox_preds, score_factors)))
        found = select_candidates(pred, cfg.get('score_thr', 0), cfg.get('nms_pre', -1))
        image, scores, labels = found.image, found.score, found.label
        if pred.branch is not None:  # after the threshold and the choice of the best, as in MMDetection
            scores = scores * pred.branch_at(found).sigmoid()
        boxes = self.boxes_at(pred, found, [meta['img_shape'][:2] for meta in batch_img_metas])
        if rescale:
            factors = boxes.new_tensor([[1 / s for s in meta['scale_factor']] for meta in batch_img_metas])
            factors = factors.repeat(1, 2)[image]
            boxes = boxes * factors

        usable = boxes.isfinite().all(1) & scores.isfinite()  # NaN or inf features decode to NaN boxes: drop them
        if cfg.get('min_bbox_size', -1) >= 0:
            usable &= (boxes[:, 2:] - boxes[:, :2] > cfg.min_bbox_size).all(1)
        keep = usable.nonzero()[:, 0]
        if with_nms and _is_plain(cfg.nms):
            keep = keep[class_aware_nms(boxes[keep], scores[keep], labels[keep], image[keep], cfg.nms.iou_threshold,
                                        cfg.get('max_per_img', -1), cfg.nms.get('class_agnostic', False))]
        else:
            keep = keep[image[keep].argsort(stable=True)]
        fields = dict(bboxes=boxes[keep], scores=scores[keep], labels=labels[keep])
        if cfg.get('uncertainty') or cfg.get('distributions'):
            scale = factors[keep] if rescale else torch.ones_like(fields['bboxes'])
            fields.update(self.distributions_at(pred, found, keep, scale, cfg))
        counts = image[keep].bincount(minlength=len(batch_img_metas)).tolist()
        results = [InstanceData(**dict(zip(fields, parts)))
                   for parts in zip(*(field.split(counts) for field in fields.values()))]
        if with_nms and not _is_plain(cfg.nms):  # mmcv's soft-NMS and others take one image at a time
            results = [self._bbox_post_process(result, cfg, False, True, meta)
                       for result, meta in zip(results, batch_img_metas)]
        return results

    def boxes_at(self, pred: Predictions, index: PriorIndex, img_shapes: Sequence[Sequence[int]]) -> Tensor:
        """(K, 4) boxes of detections at K priors, in pixels, cut to their images of heights and widths (B, 2)."""
        boxes = self.box.detect(pred.box_at(index), pred.priors_at(index))
        if not getattr(self.bbox_coder, 'clip_border', True):
            return boxes
        return clip_boxes(boxes, torch.tensor(img_shapes).to(boxes.device, non_blocking=True)[index.image])

    def distributions_at(self, pred: Predictions, index: PriorIndex, keep: Tensor, scale: Tensor,
                         cfg: ConfigType) -> Dict[str, Tensor]:
        """What the box predicts about the sides of N detections beside their places.

        It is the distribution as the network gives it. So a side that is cut off at the image's border keeps its
        spread, and with ``decode='mode'`` the spread is of all peaks, not only of the one that the box takes.

        Args:
            pred: Predictions of the batch.
            index: K priors.
            keep: (N,) which of the K are detections.
            scale: (N, 4) pixels of the result, for each pixel of the network's input.
            cfg: Says what is computed.

        Returns:
            With ``cfg.uncertainty`` ``side_std`` (N, 4), the standard deviations; with ``cfg.distributions``
            ``side_places`` and ``side_probs`` (N, 4, n+1), see :meth:`Box.distribution`.
        """
        raw, priors = pred.box_at(index)[keep], Priors(*(x[keep] for x in pred.priors_at(index)))
        fields = {}
        if cfg.get('uncertainty'):
            fields['side_std'] = self.box.spread(raw, priors) * scale
        if cfg.get('distributions'):
            places, fields['side_probs'] = self.box.distribution(raw, priors)
            fields['side_places'] = places * scale[..., None]
        return fields


def _is_plain(nms: ConfigType) -> bool:
    """Whether :func:`class_aware_nms` does what a config of mmcv's NMS asks for."""
    return nms.get('type', 'nms') == 'nms' and nms.keys() <= {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
