"""How broken image files are described, and that whole ones pass."""
import os
import re
import struct

import cv2
import pytest
from data_sets import DAMAGE, SIZE, encode, with_thumbnail

from gfl_plugin.datasets.images import find_damage, find_missing, open_image

SAID = {'empty': 'empty', 'half': 'truncated', 'nearly_whole': 'truncated', 'half_with_thumbnail': 'truncated',
        'half_of_it_zeros': 'truncated', 'all_zeros': 'nothing but zeros', 'half_a_png': 'truncated',
        'a_web_page': 'not an image that OpenCV can decode', 'no_header': 'not an image that OpenCV can decode'}
WHOLE = {
    'jpeg': encode(),
    'progressive': encode(options=(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    'with_thumbnail': with_thumbnail(encode()),
    'bytes_after_the_end': encode() + b'\0\0appended by a camera',
    'two_in_one': encode() + encode(seed=1),
    'png': encode('png'),
    'bytes_after_a_png': encode('png') + b'\n',
    'bmp': encode('bmp'),
    'webp': encode('webp'),
}


@pytest.mark.parametrize('kind', DAMAGE)
def test_damage_is_named(tmp_path, kind):
    file = tmp_path / 'image.jpg'
    file.write_bytes(DAMAGE[kind](encode()))
    assert open_image(str(file)) == (SAID[kind], None), 'the reason should say how the file is broken'


@pytest.mark.parametrize('kind', ['empty', 'half', 'nearly_whole', 'half_with_thumbnail', 'half_of_it_zeros',
                                  'all_zeros', 'half_a_png'])
def test_damage_that_some_releases_of_opencv_ignore_is_found_without_a_decoder(tmp_path, kind):
    file = tmp_path / 'image.jpg'
    file.write_bytes(DAMAGE[kind](encode()))
    assert find_damage(str(file)) == SAID[kind], 'the head and the tail of the file should be enough to find it'


@pytest.mark.parametrize('kind', WHOLE)
def test_whole_images_pass(tmp_path, kind):
    file = tmp_path / 'image'
    file.write_bytes(WHOLE[kind])
    assert find_damage(str(file)) is None, 'nothing is wrong with this file'
    assert open_image(str(file)) == (None, SIZE[::-1]), 'its height and width should be returned'


def test_a_path_that_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    said = {str(tmp_path / 'none.jpg'): 'missing', str(tmp_path): 'not a file', str(tmp_path / 'pipe'): 'not a file',
            '/dev/zero': 'not a file', str(tmp_path / 'nul\0.jpg'): 'embedded null byte'}
    for path, expected in said.items():
        assert find_damage(path) == expected, f'{path!r} should neither hang nor raise'
    assert find_damage(str(tmp_path / '\ud800.jpg')) is not None, 'a name that cannot be encoded should be reported too'


def test_exif_rotation(tmp_path):
    """The size is compared with that of the annotation, so it must be the size after the EXIF rotation."""
    turn = (b'\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0')
    (tmp_path / 'turned.jpg').write_bytes(encode()[:2] + turn + encode()[2:])
    loaded = cv2.imread(str(tmp_path / 'turned.jpg'))
    assert loaded.shape[:2] == SIZE, 'OpenCV should apply the rotation, otherwise this tests nothing'
    assert open_image(str(tmp_path / 'turned.jpg')) == (None, SIZE), 'the size should be that of the rotated image'


@pytest.mark.parametrize('content, size', [
    (re.sub(rb'(?<=\xff\xc0..\x08)....', b'\xff\xff\x40\0', encode(), count=1, flags=re.DOTALL), '16384 x 65535'),
    (encode('png')[:16] + b'\0\1\0\0' * 2 + encode('png')[24:], '65536 x 65536'),
    (b'GIF89a' + b'\x60\xea' * 2 + bytes(50), '60000 x 60000')], ids=['jpeg', 'png', 'gif'])
def test_huge_sizes_are_refused_before_memory_is_allocated(tmp_path, content, size):
    (tmp_path / 'image').write_bytes(content)
    said = f'it claims to have {size} pixels, more than OPENCV_IO_MAX_IMAGE_PIXELS allows'
    assert find_damage(str(tmp_path / 'image')) == said, 'the size in the header should decide'


@pytest.mark.parametrize('limit, is_allowed', [(str(2**30), True), ('1024MB', True), ('399999999', False),
                                               ('300MB', False), ('much', False)])
def test_the_user_sets_the_limit(limit, is_allowed, tmp_path, monkeypatch):
    monkeypatch.setenv('OPENCV_IO_MAX_IMAGE_PIXELS', limit)
    (tmp_path / 'image').write_bytes(encode('png')[:16] + struct.pack('>II', 20000, 20000) + encode('png')[24:])
    assert (find_damage(str(tmp_path / 'image')) is None) == is_allowed


HUGE = {
    'ppm': b'P6\n20000 20000\n255\n' + bytes(100),
    'hdr': b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 20000 +X 20000\n' + bytes(100),
    'bmp': b'BM' + struct.pack('<IHHIIiiHHIIiiII', 54, 0, 0, 54, 40, 20000, 20000, 1, 24, *6 * [0]),
}


@pytest.mark.parametrize('kind', HUGE)
def test_huge_sizes_of_other_formats_are_refused_by_opencv(tmp_path, kind):
    (tmp_path / 'image').write_bytes(HUGE[kind])
    said = 'it claims to have more pixels than OpenCV decodes (OPENCV_IO_MAX_IMAGE_PIXELS)'
    assert open_image(str(tmp_path / 'image')) == (said, None), 'OpenCV should have the same limit for other formats'


def test_missing_files_are_found_in_any_folder(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / '0.jpg').touch()
    (tmp_path / '1.jpg').touch()
    (tmp_path / 'folder.jpg').mkdir()
    there = [str(tmp_path / 'a' / '0.jpg'), str(tmp_path / '1.jpg')]
    missing = [str(tmp_path / name) for name in ('a/1.jpg', '0.jpg', 'b/0.jpg', 'folder.jpg', 'nul\0/0.jpg')]
    assert find_missing(there + missing) == missing, 'exactly the missing files should be listed'
