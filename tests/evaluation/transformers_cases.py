"""Adapters give what their models give, and the language model is Qwen2; test_codec.py runs this in a process of its own."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from make_codecs import BOOK, KINDS, random_model

from duotok.evaluation.codec import load_codec
from duotok.model.language_model import DualTrackLM, LanguageModelConfig

RATES = {"encodec": (24_000, 75.0, 4), "dac": (16_000, 31.25, 3), "mimi": (24_000, 12.5, 4), "xcodec": (16_000, 50.0, 3)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of weights of each kind."""
    made = {}
    for kind in KINDS:
        made[kind] = tmp_path_factory.mktemp(kind)
        random_model(kind).save_pretrained(made[kind])
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_gives_its_model_s_own_codes_and_waves(kind, folders):
    codec = load_codec(f"{kind}:{folders[kind]}")
    assert (codec.sample_rate, codec.frame_rate, codec.num_codebooks) == RATES[kind] and codec.codebook_size == BOOK
    wave = 0.3 * torch.randn(2, 1, 1, 16 * codec.hop_length)
    found = codec.encode(wave)
    with torch.no_grad():
        out = codec.model(wave[:, 0])  # the model's own way from wave to wave
        codes = codec.model.encode(wave[:, 0]).audio_codes
    codes = codes[0] if kind == "encodec" else codes  # EnCodec lists chunks, and takes its lowest rate unless told
    assert torch.equal(found.codes[:, : codes.shape[1]], codes) and len(found.codes.unique()) > 5
    assert found.codes.shape == (2, codec.num_codebooks, 16)
    torch.testing.assert_close(codec.decode(found.codes[:, : codes.shape[1]])[:, 0, 0], out.audio_values.view(2, -1))
    assert torch.equal(codec.embed(found.codes), found.embeddings) and found.embeddings.shape[2] == 16
    assert codec.codebook(codec.num_codebooks - 1).shape[0] == BOOK
    assert codec.nominal_bits_per_second == pytest.approx(codec.num_codebooks * 6 * codec.frame_rate)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_codebooks_are_the_first_ones_and_waves_keep_their_length(kind, folders):
    whole, fewer = (load_codec(f"{kind}:{folders[kind]}", num_codebooks=count) for count in (None, 2))
    wave = 0.3 * torch.randn(1, 1, 1, 9 * whole.hop_length - 77)
    assert torch.equal(fewer.encode(wave).codes, whole.encode(wave).codes[:, :2])
    assert whole.encode(wave).codes.shape[-1] == 9 and whole.rebuild(wave).shape == wave.shape
    with pytest.raises(ValueError, match=r"expected 1 to \d codebooks; got 9; take fewer"):
        load_codec(f"{kind}:{folders[kind]}", num_codebooks=9)


def test_embeddings_of_a_residual_codec_are_sums_of_its_codes_vectors(folders):
    codec = load_codec(f"encodec:{folders['encodec']}")
    codes = torch.randint(BOOK, (1, 4, 5))
    expected = sum(codec.codebook(book)[codes[0, book]] for book in range(4))
    torch.testing.assert_close(codec.embed(codes)[0].mT, expected)


def test_encodec_with_levels_of_its_own_is_refused(tmp_path):
    model = random_model("encodec")
    model.config.normalize = True
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"expected an EnCodec whose codes alone make its sound; .* take the 24 kHz one"):
        load_codec(f"encodec:{tmp_path}")


def test_names_that_lead_nowhere_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"codec: expected one of duotok, .*; got 'opus'; write encodec:NAME"):
        load_codec("opus:x")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dac"}))
    with pytest.raises(ValueError, match=r"codec dac: expected weights at .*; got .*; correct the name") as caught:
        load_codec(f"dac:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_the_model_is_qwen2():
    ours = DualTrackLM(LanguageModelConfig(40, 2, 32, 2, 4, 2, 48)).double()
    config = transformers.Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.Qwen2Model(config).double()
    for block, layer in zip(ours.blocks, theirs.layers, strict=True):
        names = ("q_proj", "k_proj", "v_proj")
        for part in ("weight", "bias"):
            for name, value in zip(names, getattr(block.qkv, part).split((32, 16, 16)), strict=True):
                getattr(getattr(layer.self_attn, name), part).data = value
        layer.self_attn.o_proj.weight.data = block.out.weight
        layer.mlp.gate_proj.weight.data, layer.mlp.up_proj.weight.data = block.ffn_in.weight.chunk(2)
        layer.mlp.down_proj.weight.data = block.ffn_out.weight
    ours.start.data.normal_()
    codes = torch.randint(40, (2, 2, 9))
    embedded = ours.project(torch.cat([table(codes[:, i]) for i, table in enumerate(ours.embeddings)], dim=-1))
    inputs = torch.cat((ours.start.expand(2, 1, -1), embedded[:, :-1]), dim=1)
    torch.testing.assert_close(ours(codes), theirs(inputs_embeds=inputs).last_hidden_state, rtol=1e-5, atol=1e-6)
