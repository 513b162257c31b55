"""Text to tokens at the speed of memory: gigatoken where its ids are those of `tokenizers`."""

import contextlib
import json
import os
import re
import resource
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from configs.errors import DataError
from data.vocabulary import SPLITTERS, id_of, id_type, vocabulary_size

_CHUNK_CHARACTERS = 1 << 20
_SAMPLE_CHARACTERS = 1 << 20
_CACHE_BYTES = 128 << 20
_SEPARATOR = "\ufdd0end of document\ufdd1"  # begins and ends with characters that no text should hold
_BETWEEN_WORDS = re.compile(r"\S(?=[ \n]\S)")
_HOSTILE = (
    "",
    " ",
    "\n",
    "It's they'll WE'VE don\u2019t I'm'd",
    "  two,   three,    four \n\n\n new\n \n line \t tab\t\t",
    "spaces" + " " * 300 + "end" + " " * 64,
    "a\r\nb\rc\r\n\r\n",
    "".join(map(chr, range(32))) + "\x7f\x80\x85\xa0\xad",
    "1234567890 3.14 1,000 ½ ² Ⅷ ٣٤",
    "naïve café e\u0301 ﬁ ß İ ŉ",
    "漢字かな 한국어 русский עברית हिन्दी ไทย",
    "👍🏽👩‍👩‍👧‍👦🇫🇷 \U0001f9ff\ufe0f ▁ \u200b\u200d\ufeff\ufffd\u2028\u3000",
    "\ufdd0 \ufdd1\ufdd0\uffff\U0010ffff",
    "x" * 500 + "!?" * 50 + "_-*/\\'\"`",
    "<p class='a'>&amp;</p> {\"a\": [1, 2]} def f(x):\n\treturn x**2  # no\n",
)


class Encoder:
    """Documents to ids, by gigatoken where it gives what `tokenizers` gives.

    accelerator: its name and version, or None and why_not says why. unknown: unknown tokens met so far. tokenizer: what
    it goes by.
    why_not, when given, is what an Encoder of the same tokenizer found before: then documents are not compared again.
    One decision for all processes keeps the ids the same whatever work each of them gets.
    """

    def __init__(self, tokenizer: Tokenizer, end: str, *, threads: int = 1, why_not: str | None = None) -> None:
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.unknown = 0
        self.accelerator: str | None = None
        self.why_not = why_not or ""
        self.tokenizer, self._end, self._threads = tokenizer, id_of(tokenizer, end), threads
        self._dtype = id_type(vocabulary_size(tokenizer))
        self._compared = why_not is not None
        layout = json.loads(tokenizer.to_str())
        self._unknown_id = _unknown_id(tokenizer, layout["model"])
        self._parts_words = _parts_words(layout)
        if not self.why_not:
            self._layout = json.dumps(_plain_layout(layout, self._end))
            self._accelerate()

    def encode(self, documents: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The ids of all documents on end, each with the end token after it, and how many ids each has.

        Ids are uint16 where the vocabulary fits, else uint32; special tokens spelled out in a text stay plain text.
        Raises DataError when a document cannot be encoded, or holds the end token.
        """
        if not self._compared:
            self.compare(documents)
        flat, lengths = self._quick(documents) or self._exact(documents)
        if self._unknown_id is not None:
            self.unknown += int(np.count_nonzero(flat == self._unknown_id))
        return flat, lengths

    def compare(self, documents: Iterable[str]) -> None:
        """Stop to use the accelerator if its ids differ for the first documents, of about a million characters."""
        self._compared = True
        size = 0
        for document in documents:
            if not self.accelerator or size >= _SAMPLE_CHARACTERS:
                return
            sample = document[: _SAMPLE_CHARACTERS - size]
            size += len(sample) + 1
            self._compare([sample])

    def _accelerate(self) -> None:
        try:
            import gigatoken
        except ImportError as error:
            self.why_not = f"gigatoken cannot be imported: {error}"
            return
        self.accelerator = f"gigatoken {version('gigatoken')}"
        self._grown_bytes = 0
        try:
            self._load = lambda: gigatoken.Tokenizer.from_json(self._layout)
            self._backend = self._load()
        except Exception as error:  # the library raises many kinds
            self._give_up(f"gigatoken cannot load this tokenizer: {error}")
            return
        spelled = [
            f"a {token.content} b{token.content}" for token in self.tokenizer.get_added_tokens_decoder().values()
        ]
        self._compare([text for text in (*_HOSTILE, *spelled) if self._can_encode(text)])

    def _can_encode(self, text: str) -> bool:
        with contextlib.suppress(DataError):
            self._exact([text])
            return True
        return False

    def _compare(self, documents: Sequence[str]) -> None:
        try:
            quick = self._quick(documents)
        except Exception as error:  # the library raises many kinds
            self._give_up(f"gigatoken cannot encode with this tokenizer: {error}")
            return
        if quick and not all(map(np.array_equal, quick, self._exact(documents))):
            self._give_up(f"its ids differ in text that begins {documents[0][:40]!r}")

    def _give_up(self, why_not: str) -> None:
        self.accelerator, self.why_not = None, why_not

    def _quick(self, documents: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
        """All documents as one text in which a separator stands for the end token: one call, one array, no copies.

        None where that does not do: no accelerator, or a document holds the separator, the end or no valid text.
        """
        if not self.accelerator or not documents:
            return None
        try:
            joined = _SEPARATOR.encode().join([*(document.encode() for document in documents), b""])
        except UnicodeEncodeError:
            return None
        before = _resident_bytes()
        ids = self._backend.encode_batch_padded([joined], self._end, parallel=False)[0][0]
        ends = np.flatnonzero(ids == self._end)
        flat = ids.astype(self._dtype)
        del ids
        # It remembers every distinct word for ever: a new one forgets them.
        self._grown_bytes += max(0, _resident_bytes() - before)
        if self._grown_bytes > _CACHE_BYTES:
            self._backend, self._grown_bytes = self._load(), 0
        return (flat, np.diff(ends, prepend=-1)) if len(ends) == len(documents) else None

    def _exact(self, documents: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The same by `tokenizers`, a chunk at a time: its encodings take a hundred times the memory of ids."""
        spans = [(place, text) for place, whole in enumerate(documents) for text in self._cut(whole)]
        with _own_threads(), ThreadPoolExecutor(self._threads) as pool:
            parts = list(pool.map(self._encode_chunk, _chunks([text for _, text in spans])))
        ids = np.concatenate([np.empty(0, self._dtype), *(ids for ids, _ in parts)])
        counts = [count for _, counts in parts for count in counts]
        lengths = np.zeros(len(documents), np.int64)
        np.add.at(lengths, np.array([place for place, _ in spans], np.int64), np.array(counts, np.int64))
        stops = np.cumsum(lengths)
        if len(held := np.flatnonzero(ids == self._end)):
            document = documents[int(np.searchsorted(stops, held[0], side="right"))]
            raise DataError(
                f"data.tokenizer: the document that begins {document[:40]!r} holds "
                f"{self.tokenizer.id_to_token(self._end)!r} as text, which would end it early; mark that token as "
                "special in tokenizer.json, or choose another data.tokenizer.end_of_document"
            )
        return np.insert(ids, stops, self._end), lengths + 1

    def _encode_chunk(self, texts: Sequence[str]) -> tuple[NDArray[Any], list[int]]:
        try:
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"data.tokenizer: a document cannot be encoded: {error}; use a byte-level tokenizer"
            ) from None
        parts = [np.asarray(encoding.ids, self._dtype) for encoding in encodings]
        return np.concatenate(parts), [len(part) for part in parts]

    def _cut(self, document: str) -> Iterator[str]:
        """A long document in parts that give the same ids, where the tokenizer never joins a word to the one before."""
        begin = 0
        while self._parts_words and len(document) - begin > _CHUNK_CHARACTERS:
            between = _BETWEEN_WORDS.search(document, begin + _CHUNK_CHARACTERS - 1)
            if not between:
                break
            yield document[begin : between.end()]
            begin = between.end()
        yield document[begin:]


def _plain_layout(layout: dict[str, Any], end: int) -> dict[str, Any]:
    """A tokenizer.json in which special tokens are plain text and the separator of documents is the end token."""
    separator = {"id": end, "content": _SEPARATOR, "single_word": False, "lstrip": False, "rstrip": False}
    separator |= {"normalized": False, "special": True}
    added = [token for token in layout["added_tokens"] if not token["special"]]
    return layout | {"added_tokens": [*added, separator], "post_processor": None}


def _parts_words(layout: dict[str, Any]) -> bool:
    """Whether a tokenizer is split before a space between two words as those trained here are, whatever it learnt."""
    plain = layout["normalizer"] is None and all(token["special"] for token in layout["added_tokens"])
    return plain and layout["pre_tokenizer"] in [json.loads(splitter.__getstate__()) for splitter in SPLITTERS]


def _unknown_id(tokenizer: Tokenizer, model: dict[str, Any]) -> int | None:
    """The id that stands for text outside the vocabulary, if there is one."""
    if model.get("unk_id") is not None:
        return model["unk_id"]
    return tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None


def _chunks(documents: Sequence[str]) -> Iterator[Sequence[str]]:
    """Documents in groups of about a million characters."""
    begin = size = 0
    for place, document in enumerate(documents):
        size += len(document)
        if size >= _CHUNK_CHARACTERS or place + 1 == len(documents):
            yield documents[begin : place + 1]
            begin, size = place + 1, 0


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Keep `tokenizers` from starting a thread per core: processes and our threads share them out."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _resident_bytes() -> int:
    """Memory that this process has now; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except FileNotFoundError:
        return 0
    return int(pages) * resource.getpagesize()
