"""Lines and paragraphs of ranges: wherever a file is cut, the ranges together have its documents, each once."""

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sources import lines as lines_module
from data.sources.lines import EXCERPT_BYTES, Span, lines, owned_lines, owned_paragraphs, paragraphs

CONTENT = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b" ", b"\t", "é".encode(), "字".encode(), b"word" * 5, b'"']),
    max_size=40,
).map(b"".join)
CUTS = st.lists(st.integers(1, 100), max_size=8)
LIMIT = st.sampled_from([1, 2, 7, 20, 1 << 20])


def expected_lines(content: bytes) -> list[bytes]:
    found = content.split(b"\n")
    return [line.removesuffix(b"\r") for line in (found if found[-1] else found[:-1])]


def expected_paragraphs(content: bytes) -> list[bytes]:
    found: list[list[bytes]] = [[]]
    for line in expected_lines(content):
        if line.strip():
            found[-1].append(line)
        else:
            found.append([])
    return [b"\n".join(each) for each in found if each]


def ranges(content: bytes, cuts: list[int]) -> list[tuple[int, int]]:
    inner = sorted({cut for cut in cuts if cut < len(content)})
    return list(pairwise([0, *inner, len(content)]))


@pytest.fixture(params=[1, 3, 1 << 18])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The reads that a range is made of."""
    monkeypatch.setattr(lines_module, "CHUNK_BYTES", request.param)
    monkeypatch.setattr("data.sources.raw.CHUNK_BYTES", request.param)
    return request.param


def check(found: list[Span], expected: list[bytes], limit: int) -> None:
    assert [span.long for span in found] == [len(text) > limit for text in expected]
    for span, text in zip(found, expected, strict=True):
        if span.long:  # an excerpt may keep the CR of a line's end
            assert span.content.replace(b"\r", b"") == text.replace(b"\r", b"")[:EXCERPT_BYTES]
        else:
            assert span.content == text


@pytest.mark.parametrize("owned", [owned_lines, owned_paragraphs])
def test_ranges_have_each_document_once_whatever_the_cut(owned, chunk_bytes: int):
    expected = {owned_lines: expected_lines, owned_paragraphs: expected_paragraphs}[owned]

    @given(CONTENT, CUTS, LIMIT)
    def holds(content: bytes, cuts: list[int], limit: int) -> None:
        file = io.BytesIO(content)
        spans = []
        for start, end in ranges(content, cuts):
            own = list(owned(file, start, end, limit))
            assert all(start <= span.offset < end for span in own)
            spans += own
        check(spans, expected(content), limit)
        for span in spans:
            assert content[span.offset : span.end].startswith(span.content[:1])

    holds()


@given(CONTENT, st.integers(1, 9), LIMIT)
def test_a_stream_has_the_same_documents_as_its_ranges(content: bytes, step: int, limit: int):
    def stream():
        return (content[at : at + step] for at in range(0, len(content), step))

    check(list(lines(stream(), 0, limit)), expected_lines(content), limit)
    check(list(paragraphs(lines(stream(), 0, limit), None, limit, fresh=True)), expected_paragraphs(content), limit)


@given(CONTENT)
def test_a_line_knows_whether_it_is_blank_and_a_long_one_how_many_quotes_it_has(content: bytes):
    for span, text in zip(lines(iter([content]), 0, 3), expected_lines(content), strict=True):
        assert span.blank == (not text.strip())
        assert span.quotes == (text.count(b'"') if span.long else 0)


class _Counted(io.BytesIO):
    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


@pytest.mark.parametrize("owned", [owned_lines, owned_paragraphs])
def test_one_endless_line_is_read_by_its_owner_alone_and_not_held(owned):
    size, piece = 64 << 20, 1 << 22
    file = _Counted(b"x" * size)
    found = [span for start in range(0, size, piece) for span in owned(file, start, start + piece, 1000)]
    assert [(span.offset, span.end, len(span.content), span.long) for span in found] == [(0, size, EXCERPT_BYTES, True)]
    assert file.taken <= 2 * size + (1 << 20)


def test_a_paragraph_of_many_lines_over_the_limit_is_not_held():
    def stream():
        for _ in range(1000):
            yield b"y" * 999 + b"\n"

    spans = list(paragraphs(lines(stream(), 0, 2000), None, 2000, fresh=True))
    assert [(len(span.content), span.end, span.long) for span in spans] == [(EXCERPT_BYTES, 1_000_000, True)]
    assert re.fullmatch(b"y+", spans[0].content)
