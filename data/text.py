"""Text to tokens: normalise, train or load a tokenizer, encode, pack into blocks."""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from configs.errors import DataError
from configs.schema import TextConfig, TokenizerFile, TrainedTokenizer

Ids = NDArray[np.int64]
END_OF_DOCUMENT = "<|endoftext|>"


def normalise(text: str, config: TextConfig) -> str:
    """One Unicode form, \\n line ends, no byte-order mark; white space around the document goes."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize(config.unicode_form, text).strip()


def train_tokenizer(documents: Iterable[str], config: TrainedTokenizer) -> Tokenizer:
    """Byte-level BPE (Sennrich et al., 2016; Radford et al., 2019): every byte string has an encoding, none is lost."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


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
    return train_tokenizer(documents, config), END_OF_DOCUMENT


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the vocabulary has."""
    found = tokenizer.token_to_id(token)
    assert found is not None
    return found


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id: a vocabulary may have holes."""
    return max(tokenizer.get_vocab().values()) + 1


def encode(
    tokenizer: Tokenizer, documents: Iterable[str], end: int, *, chunk_characters: int = 4 << 20
) -> Iterator[Ids]:
    """Each document's ids with `end` after it; special tokens spelled out in the text stay plain text.

    Raises DataError when the tokenizer cannot encode a document, or finds its end-of-document token inside one.
    """
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    chunk: list[str] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= chunk_characters:
            yield from _encode(tokenizer, chunk, end)
            chunk, size = [], 0
    yield from _encode(tokenizer, chunk, end)


def _encode(tokenizer: Tokenizer, chunk: list[str], end: int) -> Iterator[Ids]:
    try:
        encodings = tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"data.tokenizer: a document cannot be encoded: {error}; use a byte-level tokenizer") from None
    for document, encoding in zip(chunk, encodings, strict=True):
        ids = np.asarray(encoding.ids, dtype=np.int64)
        if (ids == end).any():
            raise DataError(
                f"data.tokenizer: the document that begins {document[:40]!r} holds {tokenizer.id_to_token(end)!r} as "
                "text, which would end it early; mark that token as special in tokenizer.json, or choose another "
                "data.tokenizer.end_of_document"
            )
        yield np.append(ids, end)


def pack(documents: Iterable[Ids], *, length: int, context: int) -> Iterator[Ids]:
    """Cut the joined documents into blocks of `length` tokens to predict, each after one token of context.

    Yields int64 [length + 1]; the first is the token before the block (`context` for the first block), so each token
    is predicted once. The last block may be shorter; no token is dropped.
    """
    pending = [np.array([context], dtype=np.int64)]
    size = 1
    for document in documents:
        pending.append(document)
        size += len(document)
        if size <= length:
            continue
        stream = np.concatenate(pending)
        start = 0
        while start + length < len(stream):
            yield stream[start : start + length + 1]
            start += length
        pending, size = [stream[start:]], len(stream) - start
    rest = np.concatenate(pending)
    if len(rest) > 1:
        yield rest


def unpack(blocks: Iterable[Ids], end: int) -> list[Ids]:
    """The documents back out of all their blocks in order, each with its end-of-document token."""
    stream = np.concatenate([block[1:] for block in blocks])
    ends = np.flatnonzero(stream == end) + 1
    return [document for document in np.split(stream, ends) if len(document)]
