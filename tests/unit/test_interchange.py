"""Models of `transformers` read as ours, and ours written so that `transformers` loads them: the same logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
)

from configs.dataset import TrainedTokenizer
from configs.errors import ConfigError, DataError
from configs.folder import RunFolder
from configs.language import DecoderConfig, EncoderConfig
from configs.stages import step_folder, train_key
from configs.vision import ConvNeXtConfig
from configs.vision import ResNetConfig as OurResNetConfig
from data.manifest import TokenizerRecord
from data.vocabulary import special_ids, train_tokenizer
from tests.tiny import BEGINNING, Memory, checkpoints, random_documents, tiny_run, write_dataset
from trainer.checkpoint import load_weights, read_tensors, weights
from trainer.interchange import is_layout, read_layout, read_tensors_for
from trainer.interchange.__main__ import main
from trainer.interchange.export import write_layout
from trainer.models.convnext import ConvNeXt
from trainer.models.heads import ClassHead, LanguageHead, TokenHead
from trainer.models.resnet import ResNet
from trainer.models.transformer import Transformer
from trainer.tasks import build_task

torch.set_num_threads(1)
VOCABULARY, CONTEXT, WIDTH, CLASSES = 60, 24, 32, 3
SIZE = {"num_layers": 2, "width": WIDTH, "num_heads": 4}
GPT2 = SIZE | {"norm": "layer_norm", "positions": "learned", "activation": "gelu", "bias": True}
LLAMA = SIZE | {"num_kv_heads": 2, "feed_forward_width": 80, "rotary_base": 500.0, "tied_embeddings": False}
BERT = SIZE | {
    "norm": "layer_norm",
    "norm_place": "after",
    "norm_eps": 1e-12,
    "positions": "learned",
    "activation": "gelu_erf",
    "bias": True,
    "token_types": 2,
    "embedding_norm": True,
    "head_transform": True,
    "pooler": True,
}
LABELS: dict[str, Any] = {
    "id2label": {0: "play", 1: "verse", 2: "prose"},
    "label2id": {"play": 0, "verse": 1, "prose": 2},
}


def decoder(fields: dict[str, Any], **more: Any) -> Transformer:
    return language(DecoderConfig.model_validate({"kind": "decoder"} | fields | more))


def language(shape: DecoderConfig | EncoderConfig) -> Transformer:
    head = LanguageHead(shape, vocabulary_size=VOCABULARY)
    return Transformer(shape, vocabulary_size=VOCABULARY, context_tokens=CONTEXT, head=head).eval()


def encoder(head: str = "language", **more: Any) -> Transformer:
    shape = EncoderConfig.model_validate({"kind": "encoder"} | BERT | more)
    if head == "language":
        return language(shape)
    top = {
        "sequence": lambda: ClassHead(WIDTH, classes=CLASSES, pooling="first", dropout=0.1, pooler=shape.pooler),
        "token": lambda: TokenHead(WIDTH, classes=CLASSES, dropout=0.1),
    }[head]()
    return Transformer(shape, vocabulary_size=VOCABULARY, context_tokens=CONTEXT, head=top).eval()


def gpt2(**more: Any) -> GPT2Config:
    size = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": 2, "n_head": 4}
    fields: dict[str, Any] = size | {"bos_token_id": 0, "eos_token_id": 0} | more
    return GPT2Config(**fields)


def llama(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT,
            "hidden_size": WIDTH,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        }
        | more
    )


def bert(**more: Any) -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        **more,
    )


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What the libraries initialise is the same whichever test came before."""
    torch.manual_seed(0)


def random_weights(model: nn.Module) -> None:
    """Weights far from their initial values, so that biases, norms and statistics are seen too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.1 * torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)


def saved(model: Any, folder: Path) -> Any:
    """A model of `transformers` with random weights, and its folder."""
    random_weights(model)
    model.eval().save_pretrained(folder)
    return model


def tokens(length: int = CONTEXT) -> Tensor:
    return torch.randint(1, VOCABULARY, (3, length), generator=torch.Generator().manual_seed(length))


def assert_same_logits(ours: nn.Module, theirs: Any, inputs: Tensor) -> None:
    with torch.inference_mode():
        expected = theirs(inputs).logits
        assert expected.std() > 0.1  # not a comparison of zeros
        torch.testing.assert_close(ours(inputs), expected, atol=1e-4, rtol=0)


PAIRS = {
    "GPT-2": (lambda: GPT2LMHeadModel(gpt2()), lambda: decoder(GPT2)),
    "GPT-2, exact GELU, own feed-forward": (
        lambda: GPT2LMHeadModel(gpt2(activation_function="gelu", n_inner=48)),
        lambda: decoder(GPT2, activation="gelu_erf", feed_forward_width=48),
    ),
    "Llama": (lambda: LlamaForCausalLM(llama()), lambda: decoder(LLAMA)),
    "Llama, tied, with biases": (
        lambda: LlamaForCausalLM(llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
        lambda: decoder(LLAMA, tied_embeddings=True, bias=True),
    ),
    "BERT, masked": (lambda: BertForMaskedLM(bert()), lambda: encoder()),
    "BERT, classes of texts": (lambda: BertForSequenceClassification(bert(**LABELS)), lambda: encoder("sequence")),
    "BERT, classes of tokens": (lambda: BertForTokenClassification(bert(**LABELS)), lambda: encoder("token")),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_model_of_transformers_has_the_same_logits_here(pair: str, tmp_path: Path) -> None:
    make_theirs, make_ours = PAIRS[pair]
    theirs, ours = saved(make_theirs(), tmp_path), make_ours()
    assert is_layout(tmp_path)
    load_weights(ours, {n: t for n, t in read_tensors_for(tmp_path, ours).items() if n in weights(ours)})
    assert_same_logits(ours, theirs, tokens())
    assert_same_logits(ours, theirs, tokens(5))


OURS = {
    "GPT-2": (lambda: decoder(GPT2), AutoModelForCausalLM, "GPT2LMHeadModel"),
    "GPT-2, untied": (lambda: decoder(GPT2, tied_embeddings=False), AutoModelForCausalLM, "GPT2LMHeadModel"),
    "Llama": (lambda: decoder(LLAMA), AutoModelForCausalLM, "LlamaForCausalLM"),
    "Llama, tied": (lambda: decoder(LLAMA, tied_embeddings=True), AutoModelForCausalLM, "LlamaForCausalLM"),
    "laptop": (lambda: decoder(SIZE, norm="layer_norm"), AutoModelForCausalLM, "StableLmForCausalLM"),
    "BERT, masked": (lambda: encoder(), AutoModelForMaskedLM, "BertForMaskedLM"),
    "BERT, classes of texts": (
        lambda: encoder("sequence"),
        AutoModelForSequenceClassification,
        "BertForSequenceClassification",
    ),
    "BERT, classes of tokens": (
        lambda: encoder("token"),
        AutoModelForTokenClassification,
        "BertForTokenClassification",
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenizerRecord]:
    config = TrainedTokenizer.model_validate({"kind": "wordpiece", "vocabulary_size": VOCABULARY, "special": "masked"})
    trained = train_tokenizer(["the king and the queen of night met where rivers bend"] * 3, config)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    trained.save(str(path))
    special = special_ids(trained, config)
    record = TokenizerRecord(
        file=path.name,
        sha256="",
        vocabulary_size=VOCABULARY,
        end_of_document="[SEP]",
        end_of_document_id=special["end"],
        special=special,
    )
    return path, record


AROUND = {
    "BertForMaskedLM": ["[SEP]"],
    "BertForTokenClassification": ["[SEP]"],
    "BertForSequenceClassification": ["[CLS]", "[SEP]"],
}
"""What stood around a text in training: its end, and before a text that is classified the class token"""


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", OURS)
def test_ours_has_the_same_logits_in_transformers(
    name: str, tokenizer: tuple[Path, TokenizerRecord], tmp_path: Path
) -> None:
    make, loader, architecture = OURS[name]
    ours, target = make(), tmp_path / "exported"
    random_weights(ours)
    path, record = tokenizer
    classes = tuple(LABELS["label2id"]) if "classes" in name else ()
    written = write_layout(ours, target, tokenizer=path, record=record, classes=classes)
    assert written == architecture
    theirs, told = loader.from_pretrained(target, output_loading_info=True)
    assert type(theirs).__name__ == architecture
    assert not any(told.values()), told
    assert_same_logits(ours, theirs.eval(), tokens())
    if classes:
        assert theirs.config.id2label == LABELS["id2label"]
    loaded = AutoTokenizer.from_pretrained(target)
    assert loaded("the king of rivers", add_special_tokens=False)["input_ids"]
    assert (loaded.pad_token, loaded.mask_token, loaded.eos_token) == ("[PAD]", "[MASK]", "[SEP]")
    around = loaded.convert_ids_to_tokens(set(loaded("the king")["input_ids"]) - set(plain(loaded, "the king")))
    assert sorted(around) == AROUND.get(architecture, [])
    assert sum(p.numel() for p in theirs.parameters()) - sum(p.numel() for p in ours.parameters()) in (
        0,
        5 * WIDTH if architecture.startswith("StableLm") else 0,  # biases of its norms, all zero
    )


@pytest.mark.parametrize("name", ["GPT-2", "GPT-2, untied", "Llama", "BERT, masked", "BERT, classes of texts"])
def test_what_was_written_reads_back_bit_for_bit(
    name: str, tokenizer: tuple[Path, TokenizerRecord], tmp_path: Path
) -> None:
    ours = OURS[name][0]()
    random_weights(ours)
    write_layout(ours, tmp_path / "exported", tokenizer=tokenizer[0], record=tokenizer[1], classes=("a", "b", "c"))
    back = read_tensors_for(tmp_path / "exported", ours)
    for part, tensor in weights(ours).items():
        assert torch.equal(back[part], tensor), part


def test_a_body_saved_alone_and_one_under_a_head_are_the_same(tmp_path: Path) -> None:
    theirs = saved(GPT2LMHeadModel(gpt2()), tmp_path / "head")
    theirs.transformer.save_pretrained(tmp_path / "body")
    assert isinstance(theirs.transformer, GPT2Model)
    whole, body = read_layout(tmp_path / "head"), read_layout(tmp_path / "body")
    assert whole.tensors.keys() == body.tensors.keys()
    assert all(torch.equal(whole.tensors[name], body.tensors[name]) for name in body.tensors)


def test_a_pretrained_body_serves_a_task_head_and_a_shorter_context(tmp_path: Path) -> None:
    theirs = saved(BertForMaskedLM(bert()), tmp_path)
    shape = EncoderConfig.model_validate({"kind": "encoder"} | BERT)
    head = ClassHead(WIDTH, classes=CLASSES, pooling="first", dropout=0.0, pooler=True)
    ours = Transformer(shape, vocabulary_size=VOCABULARY, context_tokens=10, head=head).eval()
    tensors = read_tensors_for(tmp_path, ours)
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    load_weights(ours, body | {name: t for name, t in weights(ours).items() if name.startswith("head.")})
    with torch.inference_mode():
        expected = theirs.bert(tokens(10)).last_hidden_state
        torch.testing.assert_close(ours.features(tokens(10)), expected, atol=1e-4, rtol=0)


def test_the_oldest_names_of_norms_are_known(tmp_path: Path) -> None:
    saved(BertForMaskedLM(bert()), tmp_path)
    before = read_layout(tmp_path).tensors
    file = tmp_path / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(old | {"bert.embeddings.position_ids": torch.arange(CONTEXT)[None]}, file)
    after = read_layout(tmp_path).tensors
    assert before.keys() == after.keys()
    assert "head.bias" in after


def test_weights_in_several_files_are_those_of_one(tmp_path: Path) -> None:
    theirs = saved(LlamaForCausalLM(llama()), tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert (tmp_path / "many" / "model.safetensors.index.json").exists()
    one, many = read_layout(tmp_path / "one"), read_layout(tmp_path / "many")
    assert one.tensors.keys() == many.tensors.keys()
    assert all(torch.equal(one.tensors[name], many.tensors[name]) for name in one.tensors)
    next(iter((tmp_path / "many").glob("model-*.safetensors"))).unlink()
    with pytest.raises(DataError, match=r"model-0000\d-of-.* cannot be read"):
        read_layout(tmp_path / "many")


def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    saved(LlamaForCausalLM(llama()), tmp_path)
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="not a file of this folder"):
        read_layout(tmp_path)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    saved(LlamaForCausalLM(llama()).bfloat16(), tmp_path)
    assert {tensor.dtype for tensor in read_layout(tmp_path).tensors.values()} == {torch.float32}


def test_pickled_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"only pytorch_model.bin.*can run code; a model.safetensors is needed"):
        read_layout(tmp_path)


WRONG = {
    "width": (lambda: GPT2LMHeadModel(gpt2()), lambda: decoder(GPT2 | {"width": 64}), "width is 32 there and 64 here"),
    "layers": (
        lambda: GPT2LMHeadModel(gpt2()),
        lambda: decoder(GPT2, num_layers=3),
        "num_layers is 2 there and 3 here",
    ),
    "family": (lambda: LlamaForCausalLM(llama()), lambda: decoder(GPT2), "norm is rms_norm there and layer_norm here"),
    "groups": (
        lambda: LlamaForCausalLM(llama()),
        lambda: decoder(LLAMA, num_kv_heads=None),
        "num_kv_heads is 2 there and 4 here",
    ),
    "rotary": (
        lambda: LlamaForCausalLM(llama(rope_parameters={"rope_type": "default", "rope_theta": 1e4})),
        lambda: decoder(LLAMA),
        "rotary_base is 10000.0 there and 500.0 here",
    ),
    "vocabulary": (
        lambda: LlamaForCausalLM(llama(vocab_size=99)),
        lambda: decoder(LLAMA),
        "vocabulary_size is 99 there and 60 here",
    ),
    "context": (
        lambda: GPT2LMHeadModel(gpt2(n_positions=16)),
        lambda: decoder(GPT2),
        "context_tokens is 16 there and 24 here",
    ),
    "tied": (
        lambda: LlamaForCausalLM(llama()),
        lambda: decoder(LLAMA, tied_embeddings=True),
        "tied_embeddings is False there and True here",
    ),
    "rescaled": (
        lambda: LlamaForCausalLM(
            llama(
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 500.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8,
                }
            )
        ),
        lambda: decoder(LLAMA),
        "rope_type=llama3 is not supported",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_checkpoint_of_another_architecture_is_refused_with_the_numbers(wrong: str, tmp_path: Path) -> None:
    make_theirs, make_ours, told = WRONG[wrong]
    saved(make_theirs(), tmp_path)
    with pytest.raises(ConfigError, match=told):
        read_tensors_for(tmp_path, make_ours())


def test_unknown_types_and_networks_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert not is_layout(tmp_path)
    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="type t5; types that can be read: bert, convnext, gpt2, llama, resnet"):
        read_layout(tmp_path)
    saved(BertModel(bert()), tmp_path)
    with pytest.raises(ConfigError, match="another architecture, BertModel, not a ResNet"):
        read_tensors_for(tmp_path, small_resnet(classes=2))


def test_a_network_without_a_layout_is_told_why(tokenizer: tuple[Path, TokenizerRecord], tmp_path: Path) -> None:
    for network, why in (
        (decoder(GPT2, positions="sinusoidal"), r"gpt2: positions=sinusoidal \(only learned\)"),
        (encoder("sequence", pooler=False), "bert: its head reads the first token through a pooler"),
        (encoder(norm_place="before"), r"bert: norm_place=before \(only after\)"),
    ):
        with pytest.raises(ConfigError, match=why):
            write_layout(network, tmp_path / "exported", tokenizer=tokenizer[0], record=tokenizer[1])
    assert not any(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(tokenizer: tuple[Path, TokenizerRecord], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        write_layout(decoder(GPT2), tmp_path, tokenizer=tokenizer[0], record=tokenizer[1])


def small_resnet(*, classes: int, bottleneck: bool = True) -> ResNet:
    shape = OurResNetConfig.model_validate({"kind": "resnet", "blocks": [1, 2], "bottleneck": bottleneck, "width": 8})
    return ResNet(shape, channels=3, classes=classes).eval()


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_resnet_of_transformers_has_the_same_logits_here(bottleneck: bool, tmp_path: Path) -> None:
    sizes = [32, 64] if bottleneck else [8, 16]
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=sizes,
        depths=[1, 2],
        layer_type="bottleneck" if bottleneck else "basic",
        **LABELS,
    )
    theirs, ours = saved(ResNetForImageClassification(config), tmp_path), small_resnet(classes=3, bottleneck=bottleneck)
    load_weights(ours, read_tensors_for(tmp_path, ours))
    assert_same_logits(ours, theirs, torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)))


def test_a_convnext_of_transformers_has_the_same_logits_here(tmp_path: Path) -> None:
    config = ConvNextConfig(depths=[1, 2], hidden_sizes=[8, 16], num_stages=2, **LABELS)
    theirs = saved(ConvNextForImageClassification(config), tmp_path)
    shape = ConvNeXtConfig.model_validate({"kind": "convnext", "blocks": [1, 2], "width": 8})
    ours = ConvNeXt(shape, channels=3, classes=CLASSES).eval()
    load_weights(ours, read_tensors_for(tmp_path, ours))
    assert_same_logits(ours, theirs, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with one checkpoint whose averaged weights are not those of the last step."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "run")
    run = tiny_run(train__ema="{decay: 0.9}")
    folder.open(run)
    documents = {"train": random_documents([40, 9], vocabulary_size=270, end=0)}
    manifest = write_dataset(run, folder, documents)
    tensors = weights(build_task(run, manifest).networks()["model"])
    average = {name: tensor + 0.01 for name, tensor in tensors.items()}
    state = Memory({"weights": tensors, "optimizer": {}, "ema": average})
    origin = {"data": manifest.digest, "config": train_key(run)}
    checkpoints(folder.train, origin).save({"model": state}, BEGINNING, {})
    return folder


@pytest.mark.parametrize("raw", [True, False])
def test_the_command_writes_the_averaged_weights_unless_asked_for_the_raw_ones(
    raw: bool, run_folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "exported"
    assert main([str(run_folder.path), str(target), *(["--raw"] if raw else [])]) == 0
    assert f"with the {'' if raw else 'averaged '}weights of step 0" in capsys.readouterr().out
    kind = "weights" if raw else "ema"
    saved_weights = read_tensors(step_folder(run_folder.train, 0), "model", kind)[kind]
    written = load_file(target / "model.safetensors")
    assert torch.equal(written["model.embed_tokens.weight"], saved_weights["embedding.weight"])
    assert AutoModelForCausalLM.from_pretrained(target).config.eos_token_id == 0
    assert AutoTokenizer.from_pretrained(target).decode([0]) == "<|endoftext|>"


def test_the_command_tells_what_is_missing(
    run_folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "holds no run.yaml" in capsys.readouterr().err
    assert main([str(run_folder.path), str(tmp_path)]) == 2
    assert "exists; name a new folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
