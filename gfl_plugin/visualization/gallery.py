"""Draw sheets of pictures: the detections on a data set's images, or its ground truth."""
import os
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmengine.dataset import pseudo_collate

from .files import name_pictures, read_image, true_boxes, write_picture
from .pictures import SMALLEST, draw_detections

TILE = SMALLEST  # pixels a side of an image on the sheet
GAP = 6


def save_gallery(model, dataset, folder: str, count: int = 24, columns: int = 6, score_thr: float = 0.3) -> str:
    """Draw the detections on the first images of a data set, with thin white boxes for the ground truth.

    Args:
        model: A detector.
        dataset: A detection data set in test mode.
        folder: Where the pictures go. It is made if it does not exist.
        count: How many images to draw.
        columns: Columns of the sheet.
        score_thr: Detections with a lower score are not drawn.

    Returns:
        The path of the sheet.

    Raises:
        OSError: A picture cannot be written.
    """
    infos = [dataset.get_data_info(index) for index in range(min(count, len(dataset)))]
    names = name_pictures([info['img_path'] for info in infos])
    tiles = []
    for index, info in enumerate(infos):
        sample = model.test_step(pseudo_collate([dataset[index]]))[0]
        found = sample.pred_instances[sample.pred_instances.scores >= score_thr].cpu().numpy()
        image, truth = read_image(info['img_path']), true_boxes(info)
        picture = draw_detections(image, found.bboxes, found.scores, found.labels, dataset.metainfo['classes'], truth)
        write_picture(os.path.join(folder, f'{os.path.splitext(names[info["img_path"]])[0]}.png'), picture)
        tiles.append(draw_tile(image, found.bboxes, found.scores, found.labels, dataset.metainfo['classes'], truth))
    path = os.path.join(folder, 'sheet.png')
    write_picture(path, lay_out(tiles, columns))
    return path


def save_truth(content: dict, images: str, path: str, count: int = 24, columns: int = 6) -> int:
    """Draw the ground truth of images that have objects, evenly spaced over a data set, on one sheet.

    Boxes that training ignores are thin and white. Images that cannot be read are left out.

    Args:
        content: Well-formed, in COCO's format.
        images: The folder that its file names are relative to.
        path: Of the sheet; its folder is made if missing.
        count: The most images to draw.
        columns: Of the sheet.

    Returns:
        How many images are on the sheet. There is no sheet without one.

    Raises:
        OSError: The sheet cannot be written.
    """
    boxes: Dict[int, List[dict]] = {}
    for box in content['annotations']:
        boxes.setdefault(box['image_id'], []).append(box)
    shown = [image for image in content['images'] if image['id'] in boxes]
    tiles = []
    for image in (shown[index * len(shown) // count] for index in range(count)) if len(shown) > count else shown:
        pixels = cv2.imread(os.path.join(images, image['file_name']))
        if pixels is not None:
            tiles.append(draw_truth(pixels, boxes[image['id']], content['categories']))
    if tiles:
        write_picture(path, lay_out(tiles, columns))
    return len(tiles)


def draw_truth(image: np.ndarray, boxes: Sequence[dict], categories: Sequence[dict]) -> np.ndarray:
    """Draw the annotations of an image, in COCO's format, on a tile (TILE, TILE, 3)."""
    labels = {category['id']: label for label, category in enumerate(categories)}
    trained = [box for box in boxes if not _is_ignored(box)]
    return draw_tile(image, _corners(trained), None, [labels[box['category_id']] for box in trained],
                     [category['name'] for category in categories],
                     _corners([box for box in boxes if _is_ignored(box)]))


def draw_tile(image: np.ndarray, boxes: np.ndarray, scores: Optional[np.ndarray], labels: Sequence[int],
              classes: Sequence[str], gt_boxes: Optional[np.ndarray] = None) -> np.ndarray:
    """:func:`draw_detections` on a tile (TILE, TILE, 3)."""
    return make_tile(image, lambda small, zoom: draw_detections(
        small, boxes * zoom, scores, labels, classes, None if gt_boxes is None else gt_boxes * zoom))


def make_tile(image: np.ndarray, draw: Callable[[np.ndarray, float], np.ndarray]) -> np.ndarray:
    """Shrink an image to a tile (TILE, TILE, 3), and draw on it. Text that is drawn first and shrunk cannot be read.

    Args:
        draw: Gets the small image and its scale, and returns the picture.
    """
    return _center(draw(*_fit(image)))


def _is_ignored(box: dict) -> bool:
    return bool(box.get('iscrowd') or box.get('ignore'))


def _corners(boxes: Sequence[dict]) -> np.ndarray:
    boxes = np.array([box['bbox'] for box in boxes], float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _fit(image: np.ndarray) -> Tuple[np.ndarray, float]:
    """Scale an image so that its longer side has TILE pixels. Return the scale, too."""
    zoom = TILE / max(image.shape[:2])
    height, width = (max(round(side * zoom), 1) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC), zoom


def _center(picture: np.ndarray) -> np.ndarray:
    """Centre a picture on a dark tile."""
    tile = np.full((TILE, TILE, 3), 32, np.uint8)
    top, left = ((TILE - length) // 2 for length in picture.shape[:2])
    tile[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    return tile


def lay_out(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """A sheet with tiles (TILE, TILE, 3) in rows."""
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step = TILE + GAP
    sheet = np.full((rows * step + GAP, columns * step + GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = GAP + i // columns * step, GAP + i % columns * step
        sheet[y:y + TILE, x:x + TILE] = tile
    return sheet
