import base64
import io
import re
from html.parser import HTMLParser

import pytest
import torch

from fieldpress.viewer.png import encode_png
from fieldpress.viewer.report import ViewPictures, heat_map, html_report

REPORT = {
    "input_bytes": 19_859_138,
    "output_bytes": 520_142,
    "ratio": 38.2,
    "count_in": 80_071,
    "count_out": 77_506,
    "psnr": 27.7,
    "psnr_self": 41.0,
    "ssim_self": 0.99,
    "lpips": None,
    "fps": 30.0,
    "render_size": [40, 30],
    "views": 2,
    "device": "cpu",
    "bytes_by_section": {"pos": 61_000, "<b>ac</b>": 81_561},
    "per_view": [
        {"index": 0, "psnr_self": 43.3, "psnr": None, "seconds": 0.01},
        {"index": 1, "psnr_self": 29.9, "psnr": None, "seconds": 0.02},
    ],
    "version": "0.1.0",
}
VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps what a browser would load and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def view(name: str = "view 0", photo: bool = True) -> ViewPictures:
    generator = torch.Generator().manual_seed(0)
    original = torch.rand(30, 40, 3, generator=generator)
    return ViewPictures(name, original, original * 0.98, original if photo else None)


def test_the_page_is_whole_and_loads_nothing():
    text = html_report("A <test>", REPORT, [view(), view("view 1")], {"pos": "positions"})
    page = Page(text)
    assert page.tags.count("img") == 8
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "A <test>" in page.text
    for shown in ("38.2", "520.1 kB", "41.00 dB", "27.70 dB", "positions", "<b>ac</b>", "80,071"):
        assert shown in page.text
    assert "nan" not in page.text.lower().replace("finance", "")


def test_what_is_missing_is_left_out():
    page = Page(html_report("Empty", {}, []))
    assert "img" not in page.tags
    assert "Look for yourself" not in page.text
    assert "View by view" not in page.text
    without_photos = Page(html_report("No photographs", REPORT, [view(photo=False)]))
    assert without_photos.tags.count("img") == 3
    assert "photograph" not in without_photos.text.split("Figures")[0].split("Look")[1]


def test_pictures_survive_the_page_bit_by_bit():
    image_module = pytest.importorskip("PIL.Image")
    shown = view()
    page = Page(html_report("Pictures", REPORT, [shown]))
    data = base64.b64decode(page.sources[0].partition(",")[2])
    with image_module.open(io.BytesIO(data)) as image:
        assert image.size == (40, 30)
        pixels = torch.tensor(list(image.convert("RGB").tobytes())).reshape(30, 40, 3)
    assert torch.equal(pixels, (shown.original * 255).round().long())


def test_png_takes_any_size_and_clamps():
    image_module = pytest.importorskip("PIL.Image")
    for height, width in ((1, 1), (1, 7), (5, 1)):
        wild = torch.linspace(-2, 3, height * width * 3).reshape(height, width, 3)
        with image_module.open(io.BytesIO(encode_png(wild))) as image:
            pixels = torch.tensor(list(image.tobytes())).reshape(height, width, 3)
        assert torch.equal(pixels, (wild.clamp(0, 1) * 255).round().long())
    with pytest.raises(ValueError, match="image: expected"):
        encode_png(torch.zeros(4, 4))


def test_heat_grows_with_the_error():
    reference = torch.zeros(1, 11, 3)
    error = torch.linspace(0, 0.12, 11)[None, :, None].expand(1, 11, 3)
    brightness = heat_map(error, reference).sum(-1)[0]
    assert (brightness.diff() >= 0).all()
    assert brightness[0] < 0.1
    assert brightness[-1] == brightness[-2]  # Beyond a tenth it gets no hotter.
