"""Packs give back what was written, and notice everything else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cim_dg.images import pack as image_pack
from cim_dg.images.pack import Damaged, Pack

RNG = np.random.RandomState(0)
IMAGES = [RNG.randint(256, size=shape).astype(np.uint8) for shape in ((5, 4, 3), (3, 2, 2), (1, 9, 3))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    image_pack.write(tmp_path / "a.pack", iter(IMAGES), len(IMAGES))
    return tmp_path / "a.pack"


def test_what_was_written_is_read_also_by_another_process(path: Path) -> None:
    pack = Pack(path)
    message = pickle.dumps(pack)
    assert len(message) < 500, "the pixels are sent, too"
    for one in (pack, pickle.loads(message)):
        assert len(one) == len(IMAGES)
        for index in (1, 0, 2, 1):
            assert np.array_equal(one[index], IMAGES[index])
    with pytest.raises(ValueError, match="read-only"):
        pack[0][0] = 0


def test_images_are_written_as_they_look_and_not_as_they_lie_in_memory(tmp_path: Path) -> None:
    turned = IMAGES[0].transpose(2, 0, 1)
    image_pack.write(tmp_path / "a.pack", [turned, turned[:, ::-1]], 2)
    pack = Pack(tmp_path / "a.pack")
    assert np.array_equal(pack[0], turned) and np.array_equal(pack[1], turned[:, ::-1])


def test_fewer_images_than_told_are_no_pack(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        image_pack.write(tmp_path / "a.pack", [], 1)
    assert list(tmp_path.iterdir()) == []


def cut_short(content: bytearray) -> None:
    del content[-1]


def cut_in_its_table(content: bytearray) -> None:
    del content[30:]


def emptied(content: bytearray) -> None:
    content.clear()


def grown(content: bytearray) -> None:
    content += b"x"


def of_another_kind(content: bytearray) -> None:
    content[:6] = b"\x89PNG\r\n"


def with_another_shape(content: bytearray) -> None:
    content[16:24] = content[20:24] + content[16:20]  # 4x5 for 5x4: as many bytes


def with_another_pixel(content: bytearray) -> None:
    content[-30] ^= 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (cut_short, "it has 162 bytes, and not the 163"),
        (cut_in_its_table, "it does not begin as it should"),
        (emptied, "it does not begin as it should"),
        (grown, "it has 164 bytes, and not the 163"),
        (of_another_kind, "it does not begin as it should"),
        (with_another_shape, "image 0 is not what its checksum tells"),
        (with_another_pixel, "image 1 is not what its checksum tells"),
    ],
)
def test_damage_is_noticed(path: Path, change: Callable[[bytearray], None], complaint: str) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    with pytest.raises(Damaged, match=complaint):
        pack = Pack(path)
        for index in range(len(pack)):
            pack[index]


def test_damage_of_the_table_is_noticed_wherever_it_is(path: Path) -> None:
    content = path.read_bytes()
    for place in range(16 + 48):
        for change in (1, 0x10, 0xFF):
            path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
            try:
                pack = Pack(path)
                images = [pack[index] for index in range(len(pack))]
            except Damaged:
                continue
            assert all(map(np.array_equal, images, IMAGES)), f"byte {place}"
