"""Published kinds of files: the ids are those of transformers' own class; what is missing is told early."""

import io
import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import transformers

from lumbre import stdlib
from lumbre.errors import TokenizerError
from lumbre.tokenizer import BpeConfig, FileTokenizerConfig, Tokenizer, WordPieceConfig

TEXTS = [document.text for document in stdlib.documents("module")][:20]
AWKWARD = [*TEXTS[:5], "", " ", "naïve CAFÉ 東京 🔥 İ ß", "tabs\tand\n\nlines  here ", "ﬁ \u00a0x\u200b y"]


def load(path: Path, **keys: bool) -> Tokenizer:
    config = FileTokenizerConfig(path=str(path), **keys)
    assert not list(config.problems())
    return config.build([])


def problems(path: Path, **keys: bool) -> list[str]:
    return [
        str(problem).replace(str(path), "HERE")
        for problem in FileTokenizerConfig(path=str(path), **keys).problems()
    ]


def assert_alike(ours: Tokenizer, theirs: transformers.PreTrainedTokenizerBase) -> None:
    for text in AWKWARD:
        ids = ours.encode_batch([text])[0].tolist()
        begin, end = len(ours.document_begin), len(ours.document_end)
        assert ids[begin : len(ids) - end] == theirs(text, add_special_tokens=False)["input_ids"], text


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    """A cased and an uncased vocab.txt."""
    folder = tmp_path_factory.mktemp("wordpiece")
    for name, lowercase in ("cased", False), ("uncased", True):
        vocabulary = WordPieceConfig(vocab_size=1024, lowercase=lowercase).build(TEXTS).backend.get_vocab()
        (folder / name).mkdir()
        lines = "\n".join(sorted(vocabulary, key=vocabulary.__getitem__))
        (folder / name / "vocab.txt").write_text(lines + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    """GPT-2's and RoBERTa's pair of files, the same merges under other ids."""
    folder = tmp_path_factory.mktemp("bpe")
    model = json.loads(BpeConfig(vocab_size=1024).build(TEXTS).backend.to_str())["model"]
    words = [word for word in model["vocab"] if not word.startswith("<|")]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]) + "\n"
    for name, order in (
        ("gpt2", [*words, "<|endoftext|>"]),
        ("roberta", ["<s>", "<pad>", "</s>", "<unk>", *words, "<mask>"]),
    ):
        (folder / name).mkdir()
        vocabulary = {word: number for number, word in enumerate(order)}
        (folder / name / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / name / "merges.txt").write_text(merges, encoding="utf-8")
    return folder


@pytest.mark.parametrize("lowercase", [False, True], ids=["cased", "uncased"])
def test_vocab_txt_has_the_ids_of_bert_s_tokenizer(wordpiece, lowercase, tmp_path):
    folder = wordpiece / ("uncased" if lowercase else "cased")
    theirs = transformers.BertTokenizer.from_pretrained(folder, do_lower_case=lowercase)
    ours = load(folder, lowercase=lowercase)
    assert_alike(ours, theirs)
    ours.save(tmp_path)
    assert dict(transformers.AutoTokenizer.from_pretrained(tmp_path)("one", "two")) == dict(
        theirs("one", "two")
    )
    assert_alike(load(folder / "vocab.txt", lowercase=lowercase), theirs)


def test_the_config_beside_a_vocab_txt_says_how_it_is_read(wordpiece, tmp_path):
    shutil.copy(wordpiece / "cased" / "vocab.txt", tmp_path)
    vocab = tmp_path / "vocab.txt"
    remedy = "set true (uncased) or false (cased)"
    assert problems(tmp_path) == [
        f"lowercase: nothing says whether HERE/vocab.txt is of lowercased text; {remedy}"
    ]
    said = {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert_alike(load(vocab), transformers.BertTokenizer.from_pretrained(tmp_path))
    assert problems(tmp_path, lowercase=False) == [
        "lowercase: the tokenizer_config.json beside it says True; leave the key out"
    ]
    assert load(tmp_path, lowercase=True).fingerprint == load(tmp_path).fingerprint


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
def test_vocab_json_and_merges_have_the_ids_of_the_family_s_tokenizer(bpe, kind):
    classes = {"gpt2": transformers.GPT2Tokenizer, "roberta": transformers.RobertaTokenizer}
    theirs = classes[kind].from_pretrained(bpe / kind)
    ours = load(bpe / kind)
    assert_alike(ours, theirs)
    assert_alike(load(bpe / kind / "merges.txt"), theirs)
    again = transformers.PreTrainedTokenizerFast(tokenizer_object=ours.backend)
    assert again("one", "two")["input_ids"] == theirs("one", "two")["input_ids"]
    if kind == "roberta":
        assert ours.encode_batch(["one"])[0].tolist() == theirs("one")["input_ids"]
        assert ours.special_ids == set(theirs.all_special_ids)


def test_openai_s_names_of_the_two_files_are_known(bpe, tmp_path):
    shutil.copy(bpe / "gpt2" / "vocab.json", tmp_path / "encoder.json")
    assert problems(tmp_path) == ["path: HERE holds encoder.json without vocab.bpe; put it beside the other"]
    shutil.copy(bpe / "gpt2" / "merges.txt", tmp_path / "vocab.bpe")
    assert load(tmp_path).fingerprint == load(bpe / "gpt2").fingerprint


def test_tokens_added_later_are_part_of_the_tokenizer(bpe, tmp_path):
    shutil.copytree(bpe / "gpt2", tmp_path, dirs_exist_ok=True)
    size = load(tmp_path).vocab_size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|pad|>": size, "<fim>": size + 1}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|pad|>"}))
    ours = load(tmp_path)
    assert (ours.pad_id, ours.backend.token_to_id("<fim>"), ours.vocab_size) == (size, size + 1, size + 2)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|pad|>": size + 7}))
    with pytest.raises(TokenizerError, match=r"added token '<\|pad\|>' cannot have the id"):
        load(tmp_path)


def test_special_tokens_are_added_to_those_of_the_files(bpe, spiece, tmp_path):
    names = ("<|fim_prefix|>", "<mask>")
    shutil.copytree(spiece, tmp_path / "t5")
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    for folder in (bpe / "gpt2", tmp_path / "t5"):
        tokenizer = FileTokenizerConfig(path=str(folder), special_tokens=names).build([])
        size = load(folder).vocab_size
        assert [tokenizer.backend.token_to_id(name) for name in names] == [size, size + 1]
        assert tokenizer.mask_id == size + 1
        assert tokenizer.special_ids == load(folder).special_ids | {size, size + 1}
        assert not {size, size + 1}.intersection(tokenizer.encode_batch([" ".join(names)])[0].tolist())
        tokenizer.save(tmp_path / "saved")
        assert load(tmp_path / "saved").fingerprint == tokenizer.fingerprint
    (problem,) = FileTokenizerConfig(path=str(bpe / "gpt2"), special_tokens=("the",)).problems()
    assert str(problem).startswith("special_tokens.0: 'the' could be a word of the text")
    words = tokenizers.models.WordLevel({"<a>": 0, "<unk>": 1}, "<unk>")
    tokenizers.Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="text that names '<a>' would be read as that token"):
        FileTokenizerConfig(path=str(tmp_path), special_tokens=("<a>",)).build([])


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    import sentencepiece

    folder, model = tmp_path_factory.mktemp("spiece"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(TEXTS).split("\n")),
        model_writer=model,
        vocab_size=500,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=3,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


def test_a_sentencepiece_model_has_the_ids_of_sentencepiece(spiece, tmp_path):
    import sentencepiece

    shutil.copytree(spiece, tmp_path, dirs_exist_ok=True)
    with pytest.raises(TokenizerError, match=r"spiece\.model: .*put the config\.json of its model beside it"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    ours = load(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(spiece / "spiece.model"))
    for text in TEXTS:
        assert ours.encode_batch([text])[0].tolist() == [*theirs.encode(text), 1]
    assert (ours.pad_id, ours.eos_id, ours.unk_id, len(ours.sentinel_ids)) == (0, 1, 2, 100)
    ids = ours.encode_batch(["the token </s> or <pad> or <extra_id_0> is text"])[0].tolist()
    assert not (ours.special_ids - {ours.unk_id}).intersection(ids[:-1])
    ours.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").fingerprint == ours.fingerprint


def test_a_normalizer_that_puts_a_space_before_the_text_puts_none_inside(tmp_path):
    """Llama's: each piece of a long text would get one."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"▁": 0, "a": 1, "▁a": 2}, [("▁", "a")]))
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    assert set(load(tmp_path).encode_batch(["a " * 200_000 + "a"])[0].tolist()) == {2}


def test_files_that_are_missing_or_of_no_kind_are_told_before_anything_is_read(bpe, tmp_path):
    remedy = "name a tokenizer.json, vocab.txt, vocab.json, spiece.model, or a folder with one"
    assert problems(tmp_path) == [f"path: HERE holds no tokenizer; {remedy}"]
    assert problems(tmp_path / "gone") == [f"path: HERE does not exist; {remedy}"]
    shutil.copy(bpe / "gpt2" / "vocab.json", tmp_path)
    assert problems(tmp_path) == ["path: HERE holds vocab.json without merges.txt; put it beside the other"]
    (tmp_path / "weights.bin").touch()
    assert problems(tmp_path / "weights.bin") == [f"path: HERE is no known kind of file; {remedy}"]
    assert problems(bpe / "gpt2", lowercase=True) == [
        "lowercase: vocab.json says so itself; leave the key out"
    ]
    with pytest.raises(TokenizerError, match=r"tokenizer\.path: .* holds vocab\.json without merges\.txt"):
        FileTokenizerConfig(path=str(tmp_path)).build([])


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"vocab.txt": "[PAD]\n[UNK]\n[CLS]\nword\n"}, r"vocab\.txt: it has no \[SEP\]"),
        ({"vocab.json": "[1]", "merges.txt": "a b\n"}, r"vocab\.json"),
        ({"vocab.json": '{"a": 0, "b": 1}', "merges.txt": "a c\n"}, r"merges\.txt: .*c"),
        ({"vocab.json": '{"a": 0', "merges.txt": "a b\n"}, r"vocab\.json"),
    ],
)
def test_a_damaged_vocabulary_is_named(files, fault, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    keys = {"lowercase": False} if "vocab.txt" in files else {}
    with pytest.raises(TokenizerError, match=fault):
        load(tmp_path, **keys)
