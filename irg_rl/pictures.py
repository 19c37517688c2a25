"""Lists the exceptions that can occur when the program decodes a picture from another source."""

import struct
import zlib

from PIL import Image

UNDECODABLE = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""The exceptions that base64 and Pillow can raise for a picture with broken bytes or broken EXIF data. Which of them is
raised depends on where the picture is broken."""
