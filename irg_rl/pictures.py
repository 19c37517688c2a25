"""Pictures that the program did not write."""

import struct
import zlib

from PIL import Image

UNDECODABLE = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What base64 and Pillow raise on broken bytes and broken EXIF, depending on where they are broken."""
