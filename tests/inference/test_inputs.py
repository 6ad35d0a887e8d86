"""Whatever a user calls an image: read as the data sets read it, or refused in a sentence."""
import cv2
import numpy as np
import pytest
from PIL import Image

from gfl_plugin.inference.images import ImageError, Source, find_images, read_image


@pytest.fixture
def pixels():
    """(40, 60, 3), blue, green, red, without loss in a PNG."""
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def read(content, **options):
    source, = find_images(content, **options)
    return read_image(source)


def reason(content):
    with pytest.raises(ImageError) as caught:
        read(content)
    return str(caught.value)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())
    return path


# ---- which images ----

def test_a_folder_gives_its_images_and_those_of_its_subfolders_in_order(tmp_path, pixels):
    for name in ('b.png', 'a.png', 'sub/c.jpg', '.hidden.png'):
        write(tmp_path / name, pixels)
    (tmp_path / 'sub/c.jpg').rename(tmp_path / 'sub/c.JPG')
    (tmp_path / 'notes.txt').write_text('no image')
    found = list(find_images(tmp_path))
    assert [source.relative_name for source in found] == ['a.png', 'b.png', 'sub/c.JPG']
    assert {source.folder for source in found} == {str(tmp_path)}


def test_a_pattern_gives_the_files_that_match_it(tmp_path, pixels):
    for name in ('1.png', '2.png', '3.bmp'):
        write(tmp_path / name, pixels)
    assert [source.relative_name for source in find_images(str(tmp_path / '*.png'))] == ['1.png', '2.png']


def test_a_pattern_may_match_folders(tmp_path, pixels):
    write(tmp_path / 'photos/inner/1.png', pixels), write(tmp_path / 'photos/2.png', pixels)
    found = [source.name for source in find_images(str(tmp_path / 'photos/*'))]
    assert found == [str(tmp_path / 'photos/2.png'), str(tmp_path / 'photos/inner/1.png')]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path, pixels):
    path = write(tmp_path / 'photo[1].png', pixels)
    assert np.array_equal(read(path), pixels)


def test_a_list_may_mix_all_kinds(tmp_path, pixels):
    path = write(tmp_path / 'one.png', pixels)
    found = list(find_images([str(path), pixels, Image.fromarray(pixels[..., ::-1])]))
    assert [source.name for source in found] == [str(path), 'image 1', 'image 2']
    assert all(np.array_equal(read_image(source), pixels) for source in found)


def test_a_generator_is_read_one_by_one():
    def endless():
        while True:
            yield np.zeros((2, 2, 3), np.uint8)

    images = find_images(endless())
    assert next(images).name == 'image 0' and next(images).name == 'image 1'


# ---- kinds of images ----

def test_files_are_read_as_training_reads_them(tmp_path, pixels):
    from mmcv.transforms import LoadImageFromFile
    for array in (pixels, pixels[..., 0], np.dstack([pixels, pixels[..., 0]]), pixels.astype(np.uint16) * 257 + 3):
        path = write(tmp_path / 'image.png', array)
        assert np.array_equal(read(path), LoadImageFromFile()(dict(img_path=str(path)))['img']), array.shape


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_photo_is_turned_as_its_exif_data_say(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = cv2.GaussianBlur(pixels, (0, 0), 8)
    path = tmp_path / 'photo.jpg'
    Image.fromarray(smooth[..., ::-1]).save(path, exif=exif, quality=100, subsampling=0)
    upright = read(path)
    assert upright.shape[:2] == ((40, 60) if orientation < 5 else (60, 40))
    assert np.abs(upright.astype(int) - read(Image.open(path))).max() <= 3  # two decoders


def test_arrays_of_any_number_of_channels_become_three(pixels):
    grey = pixels[..., 0]
    assert np.array_equal(read(grey), np.dstack([grey] * 3))
    assert np.array_equal(read(grey[..., None]), np.dstack([grey] * 3))
    assert np.array_equal(read(np.dstack([pixels, grey])), pixels)
    assert np.array_equal(read(pixels[..., ::-1], rgb=True), pixels)
    assert np.array_equal(read(np.dstack([pixels[..., ::-1], grey]), rgb=True), pixels)


def test_sixteen_bits_become_eight(pixels):
    deep = pixels[..., 0].astype(np.uint16) * 256 + 200
    assert np.array_equal(read(deep)[..., 0], pixels[..., 0])
    assert np.array_equal(read(Image.fromarray(deep))[..., 0], pixels[..., 0])


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA', 'LA', 'CMYK', 'HSV', 'YCbCr'])
def test_pil_images_of_any_mode(pixels, mode):
    image = Image.fromarray(pixels[..., ::-1])
    image = image.convert('L').convert(mode) if mode == 'LA' else image.convert(mode)
    assert np.array_equal(read(image), np.asarray(image.convert('RGB'))[..., ::-1])


def test_one_pixel_is_an_image(tmp_path):
    path = write(tmp_path / 'dot.png', np.full((1, 1, 3), 7, np.uint8))
    assert read(path).shape == (1, 1, 3)


def test_a_path_may_have_any_characters(tmp_path, pixels):
    path = write(tmp_path / 'Ünïcödé 図 😀' / 'карта.png', pixels)
    assert np.array_equal(read(str(path)), pixels)


# ---- what is no image ----

def test_what_is_no_image_is_named_with_the_reason(tmp_path, pixels):
    text = tmp_path / 'text.jpg'
    text.write_text('no image')
    whole = cv2.imencode('.jpg', pixels)[1].tobytes()
    cut = tmp_path / 'cut.jpg'
    cut.write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'empty').mkdir()
    assert 'text.jpg: not an image' in reason(text)
    assert 'cut.jpg: truncated' in reason(cut)
    assert 'missing.jpg: missing' in reason(tmp_path / 'missing.jpg')
    assert 'the folder has no image' in reason(tmp_path / 'empty')
    assert 'no file matches this pattern' in reason(str(tmp_path / '*.tif'))


@pytest.mark.parametrize('content, said', [
    (np.zeros((4, 4, 3), np.float32), 'float32; it must be of uint8'),
    (np.zeros((4, 4, 2), np.uint8), 'shape (4, 4, 2)'),
    (np.zeros((0, 4, 3), np.uint8), 'shape (0, 4, 3)'),
    (np.zeros((1, 4, 4, 3), np.uint8), 'shape (1, 4, 4, 3)'),
    (Image.new('F', (4, 4)), 'mode F'),
    (Image.new('I', (4, 4)), 'mode I'),
    (17, 'int is not an image'),
])
def test_other_things_are_refused_with_what_they_are(content, said):
    assert said in reason([content])


def test_the_name_of_a_source_counts_from_the_start_of_the_list():
    with pytest.raises(ImageError, match='image 1'):
        for source in find_images([np.zeros((2, 2), np.uint8), 3.5]):
            read_image(source)


def test_a_source_stays_what_it_is():
    source = Source('name', np.zeros((2, 2), np.uint8))
    assert list(find_images([source])) == [source]
