"""Extracts the text of PDFs that Chromium wrote; other PDFs are not supported."""

from __future__ import annotations

import re
import unicodedata
import zlib

_OBJECT = re.compile(rb"(?:^|\n)(\d+) 0 obj(.*?)\nendobj", re.DOTALL)
_SHOWN = re.compile(rb"/F(\d+) [\d.]+ Tf|<([0-9A-Fa-f]+)>|(\bT[jJdDm*]\b)")
_RANGE = re.compile(rb"<([0-9A-Fa-f]+)> <([0-9A-Fa-f]+)> <([0-9A-Fa-f]+)>")


def pdf_pages(pdf: bytes) -> list[str]:
    """The text of each page without spaces, because the PDF holds glyphs and no word boundaries."""
    objects = {int(number): body for number, body in _OBJECT.findall(pdf)}
    fonts = {number: _letters(objects[_reference(body, b"ToUnicode")]) for number, body in objects.items()
             if b"/ToUnicode" in body}  # fmt: skip
    pages = [body for body in objects.values() if re.search(rb"/Type /Page\b", body)]
    return [_text(_stream(objects[_reference(page, b"Contents")]), fonts) for page in pages]


def _reference(body: bytes, key: bytes) -> int:
    found = re.search(rb"/%s (\d+) 0 R" % key, body)
    assert found, key
    return int(found[1])


def _stream(body: bytes) -> bytes:
    start = body.index(b"stream\n") + len(b"stream\n")
    return zlib.decompressobj().decompress(body[start:])


def _letters(cmap: bytes) -> dict[int, str]:
    """Maps glyph codes to text."""
    letters = {}
    text = _stream(cmap)
    for part in re.findall(rb"beginbfrange(.*?)endbfrange", text, re.DOTALL):
        for first, last, start in _RANGE.findall(part):
            for i in range(int(last, 16) - int(first, 16) + 1):
                letters[int(first, 16) + i] = chr(int(start, 16) + i)
    for part in re.findall(rb"beginbfchar(.*?)endbfchar", text, re.DOTALL):
        for glyph, word in re.findall(rb"<([0-9A-Fa-f]+)> <([0-9A-Fa-f]+)>", part):
            letters[int(glyph, 16)] = bytes.fromhex(word.decode()).decode("utf-16-be")
    return letters


def _text(content: bytes, fonts: dict[int, dict[int, str]]) -> str:
    shown: list[str] = []
    letters: dict[int, str] = {}
    for font, glyphs, _ in _SHOWN.findall(content):
        if font:
            letters = fonts[int(font)]
        for i in range(0, len(glyphs), 4):
            shown.append(letters.get(int(glyphs[i : i + 4], 16), ""))
    # Ligatures become letters again.
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", "".join(shown)))
