"""The child's side of cleaning a picture: told by its content, measured by its header, and written anew.

Nothing of the file passes but pixels, transparency and the pace of an animation. What a colour profile means is
worked into the pixels, and a turn that the metadata asks for is made, before both are left behind.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL import (  # the WebP plugin is found by being imported; Pillow finds the others by itself
    Image,
    ImageCms,
    ImageOps,
    ImageSequence,
    JpegImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from loquent.domain.errors import Invalid, LoquentError, TooLarge, Unsupported
from loquent.readers.kinds import foreign

FRAMES = 1_000  # of an animation
WEBP_NO_MEMORY = "encoding error 1"  # VP8_ENC_ERROR_OUT_OF_MEMORY
LOSSY = 90  # quality of a WebP that was lossy before
KEPT = ("transparency", "duration", "loop", "disposal", "blend", "default_image")
NAMES: Mapping[str, str] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg"} | {
    ".webp": "webp",
    ".gif": "gif",
}
"""Each file ending that is taken, with the kind that it says."""
TAKEN = "taken are PNG, JPEG, WebP and GIF"
_SHOWN = {"png": "a PNG", "jpeg": "a JPEG", "webp": "a WebP", "gif": "a GIF"}
_OTHERS = (
    (b"BM", "a BMP image"),
    (b"\0\0\1\0", "an icon"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
)
_PAGE = re.compile(rb"<(?:script[\s>/]|html[\s>]|\?php\s|!doctype\s)")
_CUT = "the picture is broken or cut off"


def cleaned(file: BinaryIO, said: str, most: int) -> tuple[dict[str, Any], bytes]:
    """What is kept of the file, of whose name ``said`` is the ending; ``most``: pixels of all its frames together."""
    data = file.read()
    if not data:
        raise Invalid("the file is empty", field="file")
    kind = tell(data)
    if said and NAMES.get(said) != kind:
        shown = said if said.isprintable() and len(said) <= 12 else "otherwise"
        raise Unsupported(f"the file is named {shown} but is {_SHOWN[kind]} picture; {TAKEN}", field="file")
    check_is_one_thing(data, kind)
    check_end(data, kind)
    Image.MAX_IMAGE_PIXELS = most // 2  # it raises at the double; a warning before that is not meant
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as image:
            check_size(image, most)
            width, height, written = rewritten(image, kind, is_lossless=b"VP8L" in data)
    except (LoquentError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_many(most) from None
    except Exception as fault:  # a parser of somebody's bytes may raise anything
        if str(fault) == WEBP_NO_MEMORY:
            raise MemoryError from fault
        raise Invalid(_CUT, field="file") from fault
    return {"kind": kind, "width": width, "height": height}, written


def tell(data: bytes) -> str:
    """The kind, by the first bytes. Raises Unsupported naming what it is."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    head = data[:1024]
    small = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if small.startswith((b"<svg", b"<?xml", b"<!--")) and b"<svg" in small:
        found: str | None = "an SVG drawing"
    elif head[4:8] == b"ftyp":
        found = "a HEIC or AVIF image"
    else:
        found = foreign(head) or next((name for mark, name in _OTHERS if head.startswith(mark)), None)
    raise Unsupported(f"the file is {found or 'no picture'}; {TAKEN}", field="file")


def check_is_one_thing(data: bytes, kind: str) -> None:
    """Raise Unsupported where other programs would take the file for something else."""
    other = None
    if b"%PDF-" in data[:1024]:
        other = "a PDF"
    elif _PAGE.search(data.lower()):
        other = "a web page or a script"
    else:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                other = "an archive" if archive.namelist() else None
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
            pass
    if other:
        raise Unsupported(f"the file is {_SHOWN[kind]} picture and {other} at once; {TAKEN}", field="file")


def check_end(data: bytes, kind: str) -> None:
    """Raise Invalid where the end that its format wants is missing: some decoders fill up what was cut, in silence."""
    is_whole = {
        "png": lambda: b"IEND\xaeB`\x82" in data,
        "jpeg": lambda: b"\xff\xd9" in data,
        "gif": lambda: data.rstrip(b"\0\r\n\x1a ").endswith(b";"),
        "webp": lambda: int.from_bytes(data[4:8], "little") + 8 <= len(data),
    }[kind]()
    if not is_whole:
        raise Invalid(_CUT, field="file")


def check_size(image: Image.Image, most: int) -> None:
    """Raise TooLarge, by what the header says of pixels and frames."""
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a JPEG with others behind it
    if image.width * image.height * frames > most:
        raise _too_many(most)
    if frames > FRAMES:
        raise TooLarge(f"the picture has {frames:,} frames; at most {FRAMES:,} are taken", field="file")


def rewritten(image: Image.Image, kind: str, *, is_lossless: bool) -> tuple[int, int, bytes]:
    """Width, height and bytes of a new file with the same pixels."""
    options: dict[str, Any] = {}
    if kind == "jpeg":
        assert isinstance(image, JpegImagePlugin.JpegImageFile)  # noqa: S101 - the only format that was allowed
        options = {"qtables": image.quantization, "subsampling": JpegImagePlugin.get_sampling(image)}
        options["progressive"] = bool(image.info.get("progressive"))
    elif kind == "webp":
        options = {"lossless": True} if is_lossless else {"quality": LOSSY}
    if kind == "jpeg" or getattr(image, "n_frames", 1) == 1:
        frames = [_bare(image)]
    else:
        frames = [_bare(frame) for frame in ImageSequence.Iterator(image)]
        paces = [frame.info.get("duration", 0) for frame in frames]
        options |= {"save_all": True, "append_images": frames[1:], "duration": paces, "loop": image.info.get("loop", 0)}
    if kind == "jpeg" and frames[0].mode not in ("L", "RGB"):
        frames[0] = frames[0].convert("RGB")
        options |= {"qtables": None, "subsampling": -1, "quality": LOSSY}
    out = io.BytesIO()
    frames[0].save(out, kind.upper(), **options)
    return frames[0].width, frames[0].height, out.getvalue()


def _bare(image: Image.Image) -> Image.Image:
    """A copy of this frame, the right way up and in sRGB, that knows nothing but its pixels."""
    profile = image.info.get("icc_profile")
    copy = ImageOps.exif_transpose(image)
    if profile and copy.mode in ("RGB", "RGBA", "CMYK", "L"):
        copy = _in_srgb(copy, profile)
    has_alpha = copy.mode in ("RGBA", "LA", "PA")
    copy.info = {name: copy.info[name] for name in KEPT if name in copy.info and not (has_alpha and name == KEPT[0])}
    return copy


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The same colours without the profile; as it is where the profile makes no sense."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(given).lower() or image.mode == "L":
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image


def _too_many(most: int) -> TooLarge:
    return TooLarge(
        f"the picture has too many pixels; at most {most:,} are taken, in all frames together", field="file"
    )
