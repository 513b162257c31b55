"""Text to tokens: train or load a tokenizer, know its special tokens, encode at the speed of memory."""

import contextlib
import io
import json
import os
import resource
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from configs.dataset import TokenizerFile, TrainedTokenizer
from configs.errors import DataError

END_OF_DOCUMENT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
MASKED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_USUAL = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unknown": ("[UNK]", "<unk>", UNKNOWN),
    "class": ("[CLS]", "<cls>", "<s>"),
    "separator": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
_UNLIKELY = -1000.0  # log probability of the unknown piece: below every spelling of its name in pieces
_CHUNK_CHARACTERS = 1 << 20
_SAMPLE_CHARACTERS = 1 << 20
_CACHE_BYTES = 128 << 20
_SEPARATOR = "\ufdd0end of document\ufdd1"  # begins and ends with characters that no text should hold
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


def special_tokens(config: TrainedTokenizer) -> list[str]:
    """Every special token of a trained tokenizer, in order; a byte-level causal one knows all text."""
    own = MASKED if config.special == "masked" else (END_OF_DOCUMENT, UNKNOWN)[: 1 if config.kind == "bpe" else 2]
    return list(dict.fromkeys([*own, *config.extra_tokens]))


def end_token(config: TrainedTokenizer | TokenizerFile) -> str:
    """The token after each document."""
    if isinstance(config, TokenizerFile):
        return config.end_of_document
    return "[SEP]" if config.special == "masked" else END_OF_DOCUMENT


def special_ids(tokenizer: Tokenizer, config: TrainedTokenizer | TokenizerFile) -> dict[str, int]:
    """Ids by name: end, then what there is of pad, unknown, class, separator and mask, then extra tokens by their text.

    Only added tokens count: a byte-level vocabulary may have learnt "<s>" from its text.
    """
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    found = {"end": id_of(tokenizer, end_token(config))}
    for name, spellings in _USUAL.items():
        found.update([(name, added[spelling]) for spelling in spellings if spelling in added][:1])
    extra = config.extra_tokens if isinstance(config, TrainedTokenizer) else ()
    return found | {token: added[token] for token in extra}


def train_tokenizer(documents: Iterable[str], config: TrainedTokenizer) -> Tokenizer:
    """A tokenizer of the kind that the config asks for; the same documents give the same bytes.

    wordpiece and unigram read the documents twice: an iterator is held in memory for them. Their rarest characters
    are unknown when there are too many for the vocabulary. Raises DataError when nothing can be learnt.
    """
    if config.kind == "unigram":
        return _train_unigram(documents, config)
    if config.kind == "wordpiece":
        return _train_wordpiece(documents, config)
    if config.kind == "word":
        return _train_words(documents, config)
    return _train_bytes(documents, config)


def _train_bytes(documents: Iterable[str], config: TrainedTokenizer) -> Tokenizer:
    """Byte-level BPE (Sennrich et al., 2016; Radford et al., 2019): every byte string has an encoding, none is lost."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=special_tokens(config),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _train_words(documents: Iterable[str], config: TrainedTokenizer) -> Tokenizer:
    """The commonest words and runs of punctuation; all others are unknown."""
    special = special_tokens(config)
    tokenizer = Tokenizer(models.WordLevel(unk_token=special[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=config.vocabulary_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _train_wordpiece(documents: Iterable[str], config: TrainedTokenizer) -> Tokenizer:
    """WordPiece (Schuster and Nakajima, 2012) over words and single punctuation marks; letter case stays.

    Characters take at most half of the vocabulary: each may begin a word and continue one.
    """
    special, splitter = special_tokens(config), pre_tokenizers.BertPreTokenizer()
    documents = _again(documents)
    counts = _characters(documents)
    parts = {each: len(splitter.pre_tokenize_str(f"a{each}a")) for each in counts}  # 1 letter, 2 space, 3 punctuation
    wanted = Counter({each: count for each, count in counts.items() if parts[each] != 2})
    kept = _commonest(wanted, (config.vocabulary_size - len(special)) // 4)
    # The trainer numbers continuations in the order of a hash table, and breaks ties by number: we number them first.
    continuations = [f"##{each}" for each in sorted(kept) if parts[each] == 1]
    learner = Tokenizer(models.WordPiece(unk_token=special[1]))
    learner.pre_tokenizer = splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocabulary_size, special_tokens=[*special, *continuations], show_progress=False
    )
    learner.train_from_iterator(_without(documents, wanted.keys() - kept), trainer)
    tokenizer = Tokenizer(models.WordPiece(vocab=learner.get_vocab(), unk_token=special[1]))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _train_unigram(documents: Iterable[str], config: TrainedTokenizer) -> Tokenizer:
    """Unigram (Kudo, 2018), learnt by sentencepiece: the trainer of `tokenizers` differs from one run to the next.

    A new line is a piece of its own, a space begins the piece after it. Special tokens are no pieces, or text that
    spells one would become it; only the unknown one must be.
    """
    import sentencepiece  # only this kind needs it

    special = special_tokens(config)
    documents = _again(documents)
    counts = _characters(documents)
    wanted = Counter({each: count for each, count in counts.items() if each not in " \n▁"})
    room = config.vocabulary_size - len(special) - 1  # the new line
    texts = _without(documents, wanted.keys() - _commonest(wanted, room // 2))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n") if line),
            model_writer=model,
            model_type="unigram",
            vocab_size=room + 1,  # its own unknown piece goes
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 30,
            num_threads=1,  # the scores depend on how many there are
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"data.tokenizer: no unigram vocabulary of {config.vocabulary_size} can be learnt from these documents: "
            f"{error}; give more text or another vocabulary_size"
        ) from None
    learnt = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scores = [(learnt.id_to_piece(number), learnt.get_score(number)) for number in range(1, learnt.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram([(special[1], _UNLIKELY), ("\n", 0.0), *scores], unk_id=0))
    lines = pre_tokenizers.Split(Regex(r"\n"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.Metaspace(prepend_scheme="never")])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens(special)
    return tokenizer


def _again(documents: Iterable[str]) -> Iterable[str]:
    """Documents that can be read twice."""
    return list(documents) if isinstance(documents, Iterator) else documents


def _characters(documents: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(document)
    return counts


def _commonest(counts: Counter[str], limit: int) -> set[str]:
    """The `limit` commonest characters; of equally common ones the lowest."""
    return set(sorted(counts, key=lambda each: (-counts[each], each))[:limit])


def _without(documents: Iterable[str], rare: Iterable[str]) -> Iterator[str]:
    """The documents with a space in the place of rare characters."""
    table = {ord(each): " " for each in rare}
    return (document.translate(table) if table else document for document in documents)


def load_tokenizer(path: Path, end_of_document: str) -> Tokenizer:
    """A tokenizer.json whose vocabulary has the token that ends documents; raises DataError otherwise."""
    if not path.is_file():
        raise DataError(f"data.tokenizer.path: {path} does not exist")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"data.tokenizer.path: {path} is not a tokenizer.json: {error}") from None
    if tokenizer.token_to_id(end_of_document) is None:
        special = ", ".join(token.content for token in tokenizer.get_added_tokens_decoder().values()) or "none"
        raise DataError(
            f"data.tokenizer.end_of_document: {end_of_document!r} is not in the vocabulary of {path}; "
            f"its special tokens are: {special}"
        )
    return tokenizer


def build_tokenizer(config: TrainedTokenizer | TokenizerFile, documents: Iterable[str]) -> tuple[Tokenizer, str]:
    """The tokenizer that the config asks for, and its end-of-document token."""
    if isinstance(config, TokenizerFile):
        return load_tokenizer(Path(config.path), config.end_of_document), config.end_of_document
    return train_tokenizer(documents, config), end_token(config)


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the vocabulary has."""
    found = tokenizer.token_to_id(token)
    assert found is not None
    return found


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id: a vocabulary may have holes."""
    return max(tokenizer.get_vocab().values()) + 1


class Encoder:
    """Documents to ids, by gigatoken where it gives what `tokenizers` gives.

    accelerator: its name and version, or None and why_not says why. unknown: unknown tokens met so far.
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
        self._tokenizer, self._end, self._threads = tokenizer, id_of(tokenizer, end), threads
        self._dtype = np.dtype(np.uint16 if vocabulary_size(tokenizer) <= 1 << 16 else np.uint32)
        self._compared = why_not is not None
        layout = json.loads(tokenizer.to_str())
        self._unknown_id = _unknown_id(tokenizer, layout["model"])
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
            f"a {token.content} b{token.content}" for token in self._tokenizer.get_added_tokens_decoder().values()
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
        with _own_threads(), ThreadPoolExecutor(self._threads) as pool:
            parts = list(pool.map(self._encode_chunk, _chunks(documents)))
        flat = np.concatenate([np.empty(0, self._dtype), *(flat for flat, _ in parts)])
        return flat, np.concatenate([np.empty(0, np.int64), *(lengths for _, lengths in parts)])

    def _encode_chunk(self, documents: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        try:
            encodings = self._tokenizer.encode_batch_fast(documents, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"data.tokenizer: a document cannot be encoded: {error}; use a byte-level tokenizer"
            ) from None
        flat = np.concatenate([np.asarray([*encoding.ids, self._end], self._dtype) for encoding in encodings])
        lengths = np.asarray([len(encoding) + 1 for encoding in encodings], np.int64)
        owners = np.searchsorted(np.cumsum(lengths), np.flatnonzero(flat == self._end), side="right")
        if len(owners) > len(documents):
            document = documents[int(owners[:-1][owners[:-1] == owners[1:]][0])]
            raise DataError(
                f"data.tokenizer: the document that begins {document[:40]!r} holds "
                f"{self._tokenizer.id_to_token(self._end)!r} as text, which would end it early; mark that token as "
                "special in tokenizer.json, or choose another data.tokenizer.end_of_document"
            )
        return flat, lengths


def _plain_layout(layout: dict[str, Any], end: int) -> dict[str, Any]:
    """A tokenizer.json in which special tokens are plain text and the separator of documents is the end token."""
    separator = {"id": end, "content": _SEPARATOR, "single_word": False, "lstrip": False, "rstrip": False}
    separator |= {"normalized": False, "special": True}
    added = [token for token in layout["added_tokens"] if not token["special"]]
    return layout | {"added_tokens": [*added, separator], "post_processor": None}


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
