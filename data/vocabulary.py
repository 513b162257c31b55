"""Tokenizers: trained here or loaded, and what their special tokens are."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
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
_SPACES = ("Ġ", "▁")  # how byte-level and sentencepiece vocabularies spell the space before a word
_UNLIKELY = -1000.0  # log probability of the unknown piece: below every spelling of its name in pieces
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
_WORDS = pre_tokenizers.Whitespace()
_WORDS_AND_MARKS = pre_tokenizers.BertPreTokenizer()
_LINES_AND_WORDS = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(r"\n"), "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never")]
)
SPLITTERS = (_BYTES, _WORDS, _WORDS_AND_MARKS, _LINES_AND_WORDS)
"""How text is cut into words before any of the kinds looks at it"""


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
    tokenizer.pre_tokenizer = _BYTES
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
    tokenizer.pre_tokenizer = _WORDS
    trainer = trainers.WordLevelTrainer(vocab_size=config.vocabulary_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _train_wordpiece(documents: Iterable[str], config: TrainedTokenizer) -> Tokenizer:
    """WordPiece (Schuster and Nakajima, 2012) over words and single punctuation marks; letter case stays.

    Characters take at most half of the vocabulary: each may begin a word and continue one.
    """
    special, splitter = special_tokens(config), _WORDS_AND_MARKS
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
    tokenizer.pre_tokenizer = _LINES_AND_WORDS
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


def stored_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer of a prepared data set; None where there is none, as images need none."""
    return Tokenizer.from_file(str(path)) if path.is_file() else None


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


def id_type(size: int) -> np.dtype[Any]:
    """What ids of a vocabulary of that size are kept as."""
    return np.dtype("<u2" if size <= 1 << 16 else "<u4")


def word_starts(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Whether each id begins a word, [largest id + 1].

    WordPiece marks continuations; byte-level BPE and the pieces of Unigram mark the space before a word, and their
    punctuation begins one too. In a vocabulary without such marks every token is a word.
    """
    continues = json.loads(tokenizer.to_str())["model"].get("continuing_subword_prefix")
    tokens = tokenizer.get_vocab()
    spaced = any(token[:1] in _SPACES for token in tokens)
    starts = np.ones(max(tokens.values()) + 1, dtype=np.bool_)
    for token, number in tokens.items():
        if continues:
            starts[number] = not token.startswith(continues)
        elif spaced:
            starts[number] = token[:1] in _SPACES or not token[:1].isalnum()
    return starts
