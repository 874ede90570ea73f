"""Pictures: one PNG, JPEG or TIFF file, whose head tells shape and type and which is decoded as a whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import MissingExtra, SourceError

CHANNELS = {"LA": ("grey", "alpha"), "RGB": ("red", "green", "blue"), "RGBA": ("red", "green", "blue", "alpha")}
"""Mode of Pillow -> names of its channels."""
TYPES = {"1": "bool", "I;16": "uint16", **dict.fromkeys(("L", *CHANNELS), "uint8")}
"""Mode of Pillow -> data type; other modes are refused."""


@dataclass(frozen=True)
class Picture:
    """A picture whose head was read."""

    shape: tuple[int, ...]
    """(y, x) or (y, x, c)."""
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    """Names of the channels; empty for (y, x)."""
    decode: Callable[[], NDArray[Any]]
    """The whole picture."""


def picture(url: str, content: bytes) -> Picture:
    """Read the head of a picture.

    Raises
    ------
    SourceError
        It is damaged, or of a kind that cannot be read without loss.
    MissingExtra
        Its library is absent.
    """
    kind = _KINDS[url[url.rindex(".") :].lower()]
    try:
        found = kind(io.BytesIO(content))
    except ImportError as error:
        module = str(error.name).partition(".")[0].replace("PIL", "pillow")
        raise MissingExtra.of("Sections", module, "formats") from error
    except Exception as error:  # Pillow raises SyntaxError, struct.error, ... of damaged files
        raise damaged(url, error) from error
    if found is None:
        raise SourceError(
            f"{url} is a picture whose values cannot be read as they are.",
            "Readable are bits, grey of 8 and 16 bits, and red, green and blue of 8 bits with or without alpha; "
            "16-bit colour needs TIFF. What the values of a palette or CMYK are is open. A section has one page.",
            ["convert the pictures to grey or RGB", "or to TIFF, which holds numbers of any type"],
        )
    return found


def damaged(url: str, error: Exception) -> SourceError:
    """The error for a picture that cannot be decoded."""
    return SourceError(
        f"{url} cannot be decoded: {type(error).__name__}: {str(error)[:200]}",
        "The file is damaged or was not written to the end, or is another format than its name says.",
        ["copy or write it anew", "or remove it, and open the sections with missing='fill'"],
    )


def _png(file: io.BytesIO) -> Picture | None:
    import imagecodecs
    from PIL.PngImagePlugin import PngImageFile

    # The plugin itself: Image.open refuses more pixels than a section of a block face has.
    image = PngImageFile(file)
    found = None if getattr(image, "is_animated", False) else _pillow(image)
    if found is None:
        return None

    def decode() -> NDArray[Any]:
        """By libpng: Pillow fills rows that are not there with zeros, and says nothing."""
        values: NDArray[Any] = imagecodecs.png_decode(file.getvalue())
        # One colour that counts as transparent makes a channel of it, which is none of the picture's values.
        values = values.reshape(*found.shape[:2], -1)[..., : max(1, len(found.channels))].reshape(found.shape)
        return values > 0 if found.dtype == bool else np.ascontiguousarray(values, found.dtype)

    return replace(found, decode=decode)


def _jpeg(file: io.BytesIO) -> Picture | None:
    from PIL.JpegImagePlugin import JpegImageFile

    return _pillow(JpegImageFile(file))


def _pillow(image: Any) -> Picture | None:
    width, height = image.size
    # Pillow reads 16-bit colour as 8 bits.
    halved = "16" in str(image.tile[0][3]) and image.mode != "I;16"
    if image.mode not in TYPES or halved:
        return None
    channels = CHANNELS.get(image.mode, ())
    shape = (height, width, len(channels)) if channels else (height, width)
    return Picture(shape, np.dtype(TYPES[image.mode]), channels, lambda: np.array(image))


def _tiff(file: io.BytesIO) -> Picture | None:
    from tifffile import TiffFile

    with TiffFile(file, _multifile=False) as tiff:
        page = tiff.pages[0].aspage()
        separate, depth, height, width, samples = page.shaped
        if len(tiff.pages) > 1 or depth > 1 or tiff.series[0].is_truncated or page.dtype is None:
            return None
    count = separate * samples
    shape = (height, width, count) if count > 1 else (height, width)
    channels = CHANNELS["RGBA"][:count] if count in (3, 4) and page.photometric == 2 else ()

    def decode() -> NDArray[Any]:
        file.seek(0)
        with TiffFile(file, _multifile=False) as tiff:
            values: NDArray[Any] = tiff.pages[0].asarray(maxworkers=1).reshape(page.shaped)
        return np.moveaxis(values[:, 0], 0, -2).reshape(shape)

    return Picture(shape, np.dtype(page.dtype), channels, decode)


_KINDS = {".png": _png, ".jpg": _jpeg, ".jpeg": _jpeg, ".tif": _tiff, ".tiff": _tiff}
SUFFIXES = tuple(_KINDS)
"""Of files that can be sections."""
