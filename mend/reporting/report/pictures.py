"""Pictures within a page, small enough that the page stays small."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mend.atomic_io import check_file
from mend.errors import UserError

WIDEST, NARROWEST = 1800, 300
COLOURS = 256
DPI = 200
"""Of a picture that does not say."""


def embedded(source: str | Path | bytes, most_bytes: int) -> dict[str, Any]:
    """A PNG (a file, or its bytes) as {uri: a data URI, width, height in pixels, inches: of width}.

    It is scaled down, and its colours are reduced to a palette, until it takes at most `most_bytes`
    as text or is 300 pixels wide. Raises UserError, naming the file, if it is not a picture.
    """
    if not isinstance(source, bytes):
        check_file(source, "picture")
    try:
        whole = Image.open(BytesIO(source) if isinstance(source, bytes) else source)
        picture = whole.convert("RGB")
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        ValueError,
        SyntaxError,
    ) as error:
        raise UserError(f"{source}: not a picture ({error}); delete it to make it again") from None
    inches = picture.width / float(whole.info.get("dpi", (DPI,))[0])
    width = min(picture.width, WIDEST)
    while True:
        size = (width, max(1, round(picture.height * width / picture.width)))
        scaled = picture.resize(size, Image.Resampling.LANCZOS) if size != picture.size else picture
        buffer = BytesIO()
        # An octree keeps colours apart that few points have, as those of legends and thin lines.
        palette = scaled.quantize(COLOURS, Image.Quantize.FASTOCTREE)
        palette.save(buffer, "PNG", optimize=True)
        text = base64.b64encode(buffer.getvalue()).decode()
        if len(text) <= most_bytes or width <= NARROWEST:
            uri = f"data:image/png;base64,{text}"
            return {"uri": uri, "width": size[0], "height": size[1], "inches": round(inches, 1)}
        width = max(NARROWEST, int(width * 0.75))
