"""CLIP's own tokenizer without a network: OpenCLIP's ids, and spans in the caption as it was written."""

import gzip
import importlib.util
import pickle
import random

import numpy as np
import pytest

from harmopower.data import clip_vocabulary
from harmopower.data.tokenize import Tokenizer, TokenizerError, span_mask
from harmopower.interop import torchvision_stand_in

pytestmark = pytest.mark.skipif(clip_vocabulary.find() is None, reason="needs the file that open_clip_torch carries")

WORDS = """a the dog cat's I'M they'll It’s “quoted” ‘so’ naïve café cafe\u0301 ﬁne ﬂower ﬆ salt&amp;oil &amp;
&quot;hi&quot; &lt;b&gt; &amp;amp; &eacute;t&eacute; &#8217; &copy2020 AT&T <i> 2024 1,000.50 ½ Ⅷ x² 10% #tag @me
_under_ co-op e.g. ... … — straße ΟΔΟΣ İstanbul 日本語 한국어 ｆｕｌｌ
ｶﾞ العربية हिन्दी 👩‍🚀 🇩🇪 \u200b ſ'ſ Å cafÃ© donâ€™t
supercalifragilistic https://a.b/c?d=e&f=g"""


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("clip", "")


def _captions(count: int) -> list[str]:
    rng, words = random.Random(0), WORDS.split()
    gaps = (" ", " ", " ", "  ", "", "\t", "&nbsp;")
    return ["".join(rng.choice(words) + rng.choice(gaps) for _ in range(rng.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_ids_are_open_clips_on_ten_thousand_captions(tokenizer, count):
    theirs = torchvision_stand_in.import_open_clip().tokenizer.SimpleTokenizer()
    captions = _captions(count)
    wanted = theirs(captions).numpy()
    found, offsets = tokenizer.encode_batch(captions, 77)
    different = [caption for caption, row, right in zip(captions, found, wanted) if not np.array_equal(row, right)]
    assert not different, different[:5]
    lengths = np.array([len(caption) for caption in captions])
    assert (offsets >= 0).all() and (offsets <= lengths[:, None, None]).all()
    inner = offsets[:, :, 0] < offsets[:, :, 1]
    assert inner.sum() > 10 * count
    for row, kept in zip(offsets, inner, strict=True):
        assert (np.diff(row[kept], axis=0) >= 0).all()


def test_layout(tokenizer):
    assert tokenizer.vocab_size == clip_vocabulary.VOCABULARY == 49_408
    ids, _ = tokenizer.encode("a photo of a dog", 8)
    assert ids.tolist() == [49406, 320, 1125, 539, 320, 1929, 49407, 0]  # as printed by OpenAI's and OpenCLIP's


@pytest.mark.parametrize(
    "text, span, words",
    [
        ("salt &amp; oil", (5, 10), ["&amp;"]),  # the whole entity
        ("salt &amp; oil", (6, 8), ["&amp;"]),  # a part of it stands for it
        ("salt &amp; oil", (11, 14), ["oil"]),
        ("“Tom &amp; Jerry”", (1, 16), ["Tom", "&amp;", "Jerry"]),
        ("a ﬁne cat", (2, 5), ["ﬁne"]),
        ("a ﬁne cat", (2, 3), ["ﬁne"]),  # the ligature is both of its letters
        ("the cafÃ© here", (4, 9), ["cafÃ©"]),
        ("one  red&nbsp;dog", (5, 8), ["red"]),
        ("one  red&nbsp;dog", (14, 17), ["dog"]),
    ],
)
def test_spans_follow_through_entities_and_ligatures(tokenizer, text, span, words):
    _, offsets = tokenizer.encode(text, 32)
    mask = span_mask(offsets, [span])[0]
    assert [text[start:end] for start, end in offsets[mask]] == words


def test_a_caption_cut_by_the_context_knows_where_it_was_cut(tokenizer):
    _, offsets = tokenizer.encode("salt &amp; oil &amp; vinegar", 5)
    assert offsets.tolist() == [[0, 0], [0, 4], [5, 10], [11, 14], [15, 15]]


def test_survives_pickling_and_files(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    text = "“İt’s” salt &amp; oil <|endoftext|>"
    for copy in (pickle.loads(pickle.dumps(tokenizer)), Tokenizer.load(str(tmp_path), "")):
        assert copy.vocab_size == tokenizer.vocab_size
        for ours, theirs in zip(copy.encode(text, 40), tokenizer.encode(text, 40), strict=True):
            assert np.array_equal(ours, theirs)


def test_cleaning_can_be_left_out(tokenizer):
    plain = Tokenizer.load("clip", "", clean_text=False)
    assert np.array_equal(plain.encode("a dog", 8)[0], tokenizer.encode("a dog", 8)[0])
    assert not np.array_equal(plain.encode("a &amp; b", 12)[0], tokenizer.encode("a &amp; b", 12)[0])
    assert not pickle.loads(pickle.dumps(plain))._clean_text


def test_a_path_of_ones_own(tokenizer):
    own = Tokenizer.load(f"clip:{clip_vocabulary.find()}", "")
    assert np.array_equal(own.encode("a dog’s day", 16)[0], tokenizer.encode("a dog’s day", 16)[0])


def test_a_missing_or_wrong_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "text.gz").write_bytes(b"no gzip")
    (tmp_path / "short.gz").write_bytes(gzip.compress(b"#version\na b\n"))
    lines = gzip.decompress(clip_vocabulary.find().read_bytes()).decode().split("\n")
    (tmp_path / "cut.gz").write_bytes(clip_vocabulary.find().read_bytes()[:5000])
    (tmp_path / "double.gz").write_bytes(gzip.compress("\n".join(lines[:10] + lines[9:]).encode()))
    for name in ("text.gz", "short.gz", "cut.gz", "double.gz", "absent.gz"):
        with pytest.raises(TokenizerError, match=f"{name}.*config.data.tokenizer clip") as error:
            Tokenizer.load(f"clip:{tmp_path / name}", "")
        assert "\n" not in str(error.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TokenizerError, match="open_clip_torch.*clip:PATH"):
        Tokenizer.load("clip", "")
