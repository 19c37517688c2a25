"""Rows of the IRG schema: what they mean, and that a broken one is rejected whole."""

import base64
import io
import json
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sft.rows import BrokenRow, ImagePart, TextPart, decode_image, decode_row, parse_row
from tests.sft.material import assistant, drawn, encoded, image, improving_full, pixels, seen, text, thinking, user


def parse(row):
    return parse_row(json.dumps(row))


def test_flags_make_the_mode():
    parts = parse(improving_full(3))
    kinds = [
        ("text", p.loss) if isinstance(p, TextPart) else ("image", p.target, p.vae, p.vit) for p in parts
    ]
    assert kinds == [
        ("text", False),
        ("text", False),
        ("image", False, True, True),
        ("text", True),
        ("image", True, False, False),
    ]
    assert parts[0].text == "row3 blue"
    assert np.array_equal(parts[2].pixels, pixels(3)) and np.array_equal(parts[4].pixels, pixels(1003))


def test_a_user_text_is_not_trained_and_an_assistant_text_is_unless_the_row_says_otherwise():
    row = [{"role": "user", "content": "draw"}, assistant(text("a"), text("b", need_loss=False))]
    assert parse(row) == (TextPart("draw", False), TextPart("a", True), TextPart("b", False))
    assert parse([{"role": "user", "content": "draw", "need_loss": True}]) == (TextPart("draw", True),)


def test_a_refined_image_may_be_target_and_condition_at_once():
    (part,) = parse([assistant(drawn(1, need_vae=True, need_vit=True))])
    assert isinstance(part, ImagePart) and part.target and part.vae and part.vit


GOOD = [user("draw"), assistant(text("think"), drawn(0))]
BROKEN = {
    "cut off in the middle": (json.dumps(GOOD)[:-40], "not JSON"),
    "nothing": ("", "not JSON"),
    "an object": ({"conversation": GOOD}, "not a non-empty list"),
    "empty": ([], "not a non-empty list"),
    "a turn that is text": (["draw"], "turn 0 is not an object"),
    "an unknown role": ([{"role": "system", "content": "be kind"}, *GOOD], "turn 0: role 'system'"),
    "no role": ([{"content": "draw"}, *GOOD], "turn 0: role None"),
    "parts in a user turn": ([{"role": "user", "content": [text("draw")]}, *GOOD], "a user turn needs a string"),
    "text in an assistant turn": ([user("draw"), {"role": "assistant", "content": "yes"}], "turn 1: an assistant turn"),
    "a part that is text": ([user("draw"), assistant("think")], "turn 1, part 0: needs a string as content"),
    "a part without content": ([user("draw"), assistant({"type": "text"})], "turn 1, part 0: needs a string"),
    "an unknown type": ([user("draw"), assistant({"type": "audio", "content": "x"})], "turn 1, part 0: type 'audio'"),
    "an image without flags": ([user("draw"), assistant(text("a"), image(0))], "turn 1, part 1: an image needs one of"),
    "an image with flags off": ([user("draw"), assistant(image(0, need_loss=False))], "part 0: an image needs one of"),
    "a flag that is a word": ([user("d"), assistant(text("a", need_loss="false"))], "need_loss is 'false'"),
    "nothing trained": ([user("draw"), assistant(text("a", need_loss=False), seen(0))], "nothing in the row"),
    "an image that is no base64": ([assistant(image(0) | {"content": "###", "need_loss": True})], "not base64"),
    "an image outside ASCII": ([assistant(image(0) | {"content": "é", "need_loss": True})], "not base64"),
    "an image that is text": (
        [assistant(image(0) | {"content": base64.b64encode(b"hello").decode(), "need_loss": True})], "can't be opened"
    ),
    "an image of another format": (
        [assistant(image(0) | {"content": encoded(pixels(0), "BMP"), "need_loss": True})], "can't be opened as PNG"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_is_rejected_and_says_where(kind):
    row, reason = BROKEN[kind]
    with pytest.raises(BrokenRow, match=reason):
        parse_row(row) if isinstance(row, str) else parse(row)


def test_one_bad_image_rejects_the_row_although_the_others_are_good():
    row = improving_full(0)
    row[1]["content"][3]["content"] = row[1]["content"][3]["content"][:60]
    parts = parse(row)  # the header is good, and tells the size
    assert parts[4].size == (16, 16)
    with pytest.raises(BrokenRow, match="turn 1, part 3: the image can't be decoded"):
        decode_row(parts)


@pytest.mark.parametrize("content", [None, 3, ["a"]])
def test_a_column_that_holds_no_text_is_a_broken_row(content):
    with pytest.raises(BrokenRow, match="not JSON"):
        parse_row(content)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_an_image_cut_off_anywhere_is_broken_never_half_grey(format):
    whole = base64.b64decode(encoded(pixels(0, (24, 24)), format))
    for length in range(0, int(len(whole) * 0.9), 37):
        with pytest.raises(BrokenRow):
            decode_image(base64.b64encode(whole[:length]).decode())


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_damaged_bytes_never_escape_as_another_error(format):
    whole, rng = base64.b64decode(encoded(pixels(0, (24, 24)), format)), random.Random(0)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(min(len(damaged), 120))] = rng.randrange(256)
        try:
            outcomes.add(decode_image(base64.b64encode(bytes(damaged)).decode()).shape[2])
        except BrokenRow:
            outcomes.add("broken")
    assert "broken" in outcomes and outcomes <= {3, "broken"}


def png_of_size(width: int, height: int) -> bytes:
    """A small PNG whose header says another size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + base64.b64decode(encoded(pixels(0, (24, 24))))[len(start) :]


@pytest.mark.parametrize(("size", "said"), [
    ((5000, 5000), "5000x5000 pixels are more than"), ((12_000, 12_000), "12000x12000 pixels are more than"),
    ((100_000, 100_000), "can't be opened"),
])  # fmt: skip
def test_a_hostile_size_is_refused_by_its_header(size, said):
    """Change: large images were decoded."""
    with pytest.raises(BrokenRow, match=said):
        decode_image(base64.b64encode(png_of_size(*size)).decode())


def test_transparency_is_laid_on_white():
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[0, 0] = 255, 0, 0, 255
    picture[0, 1] = 0, 0, 0, 0
    picture[1] = 0, 0, 255, 128
    got = decode_image(encoded(picture))
    assert got[0, 0].tolist() == [255, 0, 0] and got[0, 1].tolist() == [255, 255, 255]
    assert np.abs(got[1, 0].astype(int) - [127, 127, 255]).max() <= 1


def test_a_transparent_colour_of_a_palette_or_of_rgb_is_white_too():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    out = io.BytesIO()
    palette.save(out, "PNG", transparency=0)
    assert decode_image(base64.b64encode(out.getvalue()).decode())[0].tolist() == [[255, 255, 255], [200, 100, 50]]
    out = io.BytesIO()
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(out, "PNG", transparency=(1, 2, 3))
    assert decode_image(base64.b64encode(out.getvalue()).decode())[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_grey_pixels_become_three_channels_and_deep_ones_are_refused():
    assert decode_image(encoded(np.array([[0, 77]], np.uint8)))[0].tolist() == [[0, 0, 0], [77, 77, 77]]
    with pytest.raises(BrokenRow, match="8 bits per channel"):
        decode_image(encoded(np.array([[0, 40_000]], np.uint16)))


def test_a_row_of_text_alone_is_good():
    assert [p.loss for p in parse(thinking(1))] == [False, True]


@pytest.mark.parametrize("wrap", [
    lambda code: f"data:image/png;base64,{code}",
    lambda code: "\n".join(code[i : i + 76] for i in range(0, len(code), 76)),
    lambda code: f"  {code[:9]}\r\n\t {code[9:]}\n",
])  # fmt: skip
def test_base64_may_stand_in_a_data_url_and_be_broken_into_lines(wrap):
    assert np.array_equal(decode_image(wrap(encoded(pixels(5)))), pixels(5))


def test_a_photo_is_turned_as_its_exif_says():
    """It was learned from lying on its side."""
    photo, out = Image.fromarray(pixels(1, (8, 16))), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    photo.save(out, "PNG", exif=exif)
    turned = decode_image(base64.b64encode(out.getvalue()).decode())
    assert np.array_equal(turned, np.rot90(pixels(1, (8, 16)), -1))


@pytest.mark.parametrize(("row", "reason"), [
    ("[" * 100_000, "nested deeper"),
    ('[{"role": "user", "content": ' + "9" * 5000 + "}]", "5000 digits"),
    (b'[{"role": "user", "content": "\xff"}]', "not UTF-8"),
    ('[{"role": "user", "content": "half \\ud83d"}]', "turn 0: half a character"),
    ('[{"role": "assistant", "content": [{"type": "text", "content": "\\udc00"}]}]', "part 0: half a character"),
])  # fmt: skip
def test_what_would_end_the_run_is_a_broken_row(row, reason):
    with pytest.raises(BrokenRow, match=reason):
        parse_row(row)


def test_control_characters_in_a_text_are_kept_as_the_original_loader_keeps_them():
    (part,) = parse([{"role": "user", "content": "a\u0000\u2028b", "need_loss": True}])
    assert part.text == "a\0\u2028b"
