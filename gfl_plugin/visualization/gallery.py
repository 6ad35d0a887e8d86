"""Draw boxes on images: detections, one file per image and one sheet with all of them; or a sheet of ground truth."""
import os
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData

TILE = 320  # pixels a side of an image on the sheet
GAP = 6
GROUND_TRUTH = (255, 255, 255)


def save_gallery(model, dataset, folder: str, count: int = 24, columns: int = 6, score_thr: float = 0.3) -> str:
    """Draw the detections on the first images of a data set, with thin white boxes for the ground truth.

    Args:
        model: A detector.
        dataset: A detection data set in test mode, with annotations loaded.
        folder: Where the pictures go. It is made if it does not exist.
        count: How many images to draw.
        columns: Columns of the sheet.
        score_thr: Detections with a lower score are not drawn.

    Returns:
        The path of the sheet.
    """
    os.makedirs(folder, exist_ok=True)
    tiles = []
    for index in range(min(count, len(dataset))):
        sample = model.test_step(pseudo_collate([dataset[index]]))[0]
        found = sample.pred_instances[sample.pred_instances.scores >= score_thr].cpu().numpy()
        picture = draw_detections(cv2.imread(sample.img_path), found, sample.gt_instances.bboxes.numpy(),
                                  np.array(sample.scale_factor), dataset.metainfo)
        cv2.imwrite(os.path.join(folder, f'{os.path.splitext(os.path.basename(sample.img_path))[0]}.png'), picture)
        tiles.append(fit(picture, TILE))
    return write_sheet(tiles, columns, os.path.join(folder, 'sheet.png'))


def save_truth(content: dict, images: str, path: str, palette: Sequence[Tuple[int, int, int]], count: int = 24,
               columns: int = 6) -> int:
    """Draw the ground truth of images that have objects, evenly spaced over a data set, on one sheet.

    Boxes that training ignores are thin and white. Images that cannot be read are left out.

    Args:
        content: Well-formed, in COCO's format.
        images: The folder that its file names are relative to.
        path: Of the sheet; its folder is made if missing.
        palette: A colour (red, green, blue) for each category.
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
    styles = {category['id']: (_plain(category['name'], label), palette[label][::-1])
              for label, category in enumerate(content['categories'])}
    tiles = []
    for image in (shown[index * len(shown) // count] for index in range(count)) if len(shown) > count else shown:
        picture = cv2.imread(os.path.join(images, image['file_name']))
        if picture is not None:
            tiles.append(draw_truth(picture, boxes[image['id']], styles))
    if tiles:
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        with open(path, 'wb') as file:
            file.write(cv2.imencode(os.path.splitext(path)[1], lay_out(tiles, columns))[1].tobytes())
    return len(tiles)


def draw_truth(image: np.ndarray, boxes: Sequence[dict], styles: Dict[int, tuple]) -> np.ndarray:
    """A tile (TILE, TILE, 3) with the annotations of an image; ``styles`` has a name and a colour for each category."""
    zoom = TILE / max(image.shape[:2])
    tile = fit(image, TILE)
    top, left = ((TILE - round(side * zoom)) // 2 for side in image.shape[:2])
    for box in boxes:
        x, y, width, height = box['bbox']
        corners = np.array([x, y, x + width, y + height]) * zoom + [left, top, left, top]
        if not np.isfinite(corners).all():
            continue
        name, color = styles[box['category_id']]
        if box.get('iscrowd') or box.get('ignore'):
            _rectangle(tile, corners, GROUND_TRUTH, 1)
        else:
            _rectangle(tile, corners, color, 2)
            _caption(tile, name, corners[:2], color)
    return tile


def _plain(name: str, label: int) -> str:
    """A name that OpenCV's font can write, which has ASCII alone."""
    return name if name.isascii() else f'class {label + 1}'


def draw_detections(image: np.ndarray, found: InstanceData, gt_boxes: np.ndarray, gt_scale: np.ndarray,
                    metainfo: dict) -> np.ndarray:
    """Draw detections and ground truth on a copy of an image (H, W, 3). The copy's longer side is at least TILE pixels.

    Args:
        image: (H, W, 3), BGR.
        found: N detections in pixels of the image.
        gt_boxes: (G, 4). The annotations may be in pixels of the network's input.
        gt_scale: (2,) how many pixels of ``gt_boxes``, in x and y, make one pixel of the image.
        metainfo: The classes and palette of the data set.
    """
    zoom = max(1.0, TILE / max(image.shape[:2]))
    picture = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    for box in gt_boxes / np.tile(gt_scale, 2):
        _rectangle(picture, box * zoom, GROUND_TRUTH, 1)
    found = found[found.scores.argsort()]  # the best is drawn last, on top
    for box, score, label in zip(found.bboxes, found.scores, found.labels):
        color = tuple(map(int, metainfo['palette'][label][::-1]))
        _rectangle(picture, box * zoom, color, 2)
        _caption(picture, f'{metainfo["classes"][label]} {100 * score:.0f}', box[:2] * zoom, color)
    return picture


def _rectangle(picture: np.ndarray, box: Sequence[float], color, thickness: int) -> None:
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(picture, (x1, y1), (x2, y2), color, thickness, cv2.LINE_AA)


def _caption(picture: np.ndarray, text: str, corner: Sequence[float], color) -> None:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    (width, height), _ = cv2.getTextSize(text, font, scale, 1)
    x = min(max(round(float(corner[0])), 0), max(picture.shape[1] - width - 4, 0))
    y = max(round(float(corner[1])), height + 5)
    cv2.rectangle(picture, (x, y - height - 5), (x + width + 4, y), color, -1)
    dark = sum(color) > 380  # on a bright color the text is black
    cv2.putText(picture, text, (x + 2, y - 4), font, scale, (0, 0, 0) if dark else (255, 255, 255), 1, cv2.LINE_AA)


def fit(picture: np.ndarray, side: int) -> np.ndarray:
    """Shrink a picture and centre it on a square of ``side`` pixels."""
    scale = side / max(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:side, :side]
    tile = np.full((side, side, 3), 32, np.uint8)
    top, left = ((side - length) // 2 for length in picture.shape[:2])
    tile[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    return tile


def write_sheet(tiles: Sequence[np.ndarray], columns: int, path: str) -> str:
    """Lay tiles out in rows and write them to ``path``."""
    cv2.imwrite(path, lay_out(tiles, columns))
    return path


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
