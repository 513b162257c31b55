"""A language model's score by document: for paired tests, and which ones it finds hard and easy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data.packing import Ids
from trainer.evaluation.contract import Units
from trainer.evaluation.windows import Window, scored_in

SHOWN = 5
"""Documents at each end of the table"""
LONG_TOKENS = 32
"""Shorter ones say little, and stay out of the table as long as others fill it"""
HISTOGRAM_BINS = 20
FIRST_WORDS = 8
"""Shown of a document"""

Figure = dict[str, Any]


def document_units(windows: Sequence[Window], nll: NDArray[np.float64]) -> Units:
    """Negative log-likelihood in nats and tokens of each document, from those of its windows [windows]."""
    owners = np.array([document for document, *_ in windows], dtype=np.int64)
    ids, places = np.unique(owners, return_inverse=True)
    sums, sizes = np.zeros(len(ids)), np.zeros(len(ids))
    np.add.at(sums, places, nll)
    np.add.at(sizes, places, scored_in(windows))
    return Units(ids=ids, sums=sums, sizes=sizes)


def document_figures(documents: Sequence[Ids], units: Units, tokenizer: Tokenizer) -> list[Figure]:
    """The hardest and the easiest documents, and how many are how hard, in bits per byte of the decoded text."""
    texts: list[str] = tokenizer.decode_batch([documents[number].tolist() for number in units.ids])
    size = np.array([len(text.encode()) for text in texts])
    known = size > 0  # one of an end-of-document token alone has no bytes
    bits = np.divide(units.sums / math.log(2), size, out=np.zeros(len(size)), where=known)
    figures = [_table(texts, units, bits, known)] if known.any() else []
    figures += histogram(bits[known], "Documents by bits per byte", x_title="bits/byte", y_title="documents")
    return figures


def histogram(values: NDArray[np.float64], title: str, *, x_title: str, y_title: str) -> list[Figure]:
    """How many values [N] lie where, as a figure; of fewer than two there is none."""
    if len(values) < 2:
        return []
    counts, edges = np.histogram(values, HISTOGRAM_BINS)
    middles = [round(float(middle), 4) for middle in (edges[:-1] + edges[1:]) / 2]
    return [
        {"kind": "bars", "title": title, "x": middles, "y": counts.tolist(), "x_title": x_title, "y_title": y_title}
    ]


def extremes(scores: NDArray[np.float64], ranked: NDArray[np.bool_]) -> list[int]:
    """The places of the SHOWN highest and the SHOWN lowest scores [N] of those that are ranked, the highest first."""
    order = np.flatnonzero(ranked)[np.argsort(-scores[ranked], kind="stable")].tolist()
    return order if len(order) <= 2 * SHOWN else order[:SHOWN] + order[-SHOWN:]


def beginning(text: str) -> str:
    """What a table shows of a text."""
    return " ".join(text.split()[:FIRST_WORDS])


def _table(texts: list[str], units: Units, bits: NDArray[np.float64], known: NDArray[np.bool_]) -> Figure:
    long = known & (units.sizes >= LONG_TOKENS)
    ranked = long if long.sum() >= 2 * SHOWN else known
    return {
        "kind": "table",
        "title": "Hardest and easiest documents",
        "columns": ["document", "tokens", "bits/byte", "nats/token", "begins"],
        "rows": [
            [
                int(units.ids[place]),
                int(units.sizes[place]),
                round(float(bits[place]), 4),
                round(float(units.sums[place] / units.sizes[place]), 4),
                beginning(texts[place]),
            ]
            for place in extremes(bits, ranked)
        ],
        "note": f"The hardest first; of {len(texts)} test documents, numbered as they stand in the split"
        + (f"; those of fewer than {LONG_TOKENS} tokens are left out." if ranked is long else "."),
    }
