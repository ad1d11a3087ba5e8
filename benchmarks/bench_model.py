"""The model on a CPU as it is used: a block, the front half, the quantizer, a step of the decoder; at paper and at tiny size.

`share_of_products` is the time that plain products of the same shapes take (by torch.mm or by oneDNN, whichever is faster at
the shape; attention's and the convolutions' included, as products) over the time of the whole, `share_of_mm` the same of
torch.mm alone. The encoder's rivals are
transformers' Wav2Vec2-Conformer with as many parameters, six of its layers being twelve blocks, and its BERT, which has our
layers. `unfused` is the same model by torch's own layers, and `compiled` the block under torch.compile.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from duotok.kernels import use_backends
from measure import peer, product_seconds
from torch import Tensor, nn

from duotok.model.dit import DiT, DiTConfig
from duotok.model.simvq import Codebook, SimVQ, SimVQConfig
from duotok.model.transformer import Block, Stack, TransformerConfig, rotary_table
from duotok.model.trunk import Downsample

FRAMES, MELS = 750, 128
SIZES = {"paper": TransformerConfig(), "tiny": TransformerConfig(width=128, num_heads=4, ffn_width=512, dropout=0.0)}
BLOCKS, CHANNELS = {"paper": 12, "tiny": 4}, {"paper": 512, "tiny": 32}
Shapes = list[tuple[int, int, int]]

size = pytest.mark.parametrize("size", SIZES)
dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(autouse=True)
def inference():
    """No gradients: the time is that of a tokenizer."""
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def block_shapes(config: TransformerConfig, frames: int = FRAMES) -> Shapes:
    """(M, K, N) of a block's products."""
    width, wide, head = config.width, config.ffn_width, config.width // config.num_heads
    layers = [(frames, width, 3 * width), (frames, width, width), (frames, width, wide), (frames, wide, width)]
    return layers + config.num_heads * [(frames, head, frames), (frames, frames, head)]


def downsample_shapes(channels: int, width: int) -> Shapes:
    """(M, K, N) of the downsampling's convolutions and projection."""
    first, second = 2 * FRAMES * MELS // 2, FRAMES * MELS // 4
    layers = [(first, 9, channels)] * 2 + [(first, 9 * channels, channels)] + [(second, 9 * channels, channels)] * 3
    return [*layers, (FRAMES, channels * MELS // 4, width)]


def flops(shapes: Shapes) -> float:
    return sum(2.0 * m * k * n for m, k, n in shapes)


def shares(shapes: Shapes, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """How much of a time plain products of these shapes would take."""
    products = product_seconds(shapes, dtype, 2)
    return {"share_of_products": products["fastest"] / seconds, "share_of_mm": products["mm"] / seconds}


def check(module: nn.Module, *inputs: Tensor, tolerance: float) -> None:
    """The module's answer is that of torch's own layers in float64."""
    with use_backends("reference"):
        exact = copy.deepcopy(module).double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    got = module(*inputs)
    assert (got.double() - exact).norm() <= tolerance * exact.norm()


@dtype
@size
def bench_block(benchmark, record, size, dtype):
    """One block on a window of 30 s."""
    config = SIZES[size]
    block, x = Block(config).eval().to(dtype), torch.randn(1, FRAMES, config.width, dtype=dtype)
    table = rotary_table(FRAMES, config.width // config.num_heads, config.rope_base, x.device)
    check(block, x, table, tolerance=1e-5 if dtype == torch.float32 else 2e-2)

    def unfused() -> Tensor:
        with use_backends("sdpa"):
            return block(x, table)

    rivals = {"ours": lambda: block(x, table), "unfused": unfused}
    shapes = block_shapes(config)
    best = record(f"block, {size}, {dtype}", rivals, flops=flops(shapes), dtype=dtype)
    benchmark.extra_info |= shares(shapes, dtype, best["ours"])


@pytest.mark.slow
def bench_block_compiled(record):
    """The paper's block under torch.compile, which calls what torch's own layers call, beside ours."""
    config = SIZES["paper"]
    block, x = Block(config).eval(), torch.randn(1, FRAMES, config.width)
    table = rotary_table(FRAMES, config.width // config.num_heads, config.rope_base, x.device)
    compiled = torch.compile(block)
    torch.testing.assert_close(compiled(x, table), block(x, table), rtol=1e-3, atol=1e-3)
    record("block, paper, compiled", {"ours": lambda: block(x, table), "compiled": lambda: compiled(x, table)})


class Front(nn.Module):
    """Downsampling and front blocks, as `Trunk.encode` runs them."""

    def __init__(self, size: str) -> None:
        super().__init__()
        self.downsample = Downsample(MELS, CHANNELS[size], SIZES[size].width)
        self.front = Stack(SIZES[size], BLOCKS[size])

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 4T, F) to (B, T, D)."""
        return self.front(self.downsample(mel))


@dtype
@pytest.mark.parametrize("size", [pytest.param("paper", marks=pytest.mark.slow), "tiny"])
def bench_front_half(benchmark, record, size, dtype):
    """Mel frames of 30 s to the bottleneck: all of the network that tokenizing needs."""
    front, mel = Front(size).eval().to(dtype), torch.randn(1, 4 * FRAMES, MELS, dtype=dtype)
    if size == "tiny":
        check(front, mel, tolerance=1e-5 if dtype == torch.float32 else 5e-2)
    else:
        check(front.downsample, mel[:, :64], tolerance=1e-5 if dtype == torch.float32 else 2e-2)

    def unfused() -> Tensor:
        with use_backends("sdpa"):
            return front(mel)

    shapes = downsample_shapes(CHANNELS[size], SIZES[size].width) + BLOCKS[size] * block_shapes(SIZES[size])
    best = record(f"front half, {size}, {dtype}", {"ours": lambda: front(mel), "unfused": unfused}, 0, flops(shapes), dtype, 2)
    benchmark.extra_info |= shares(shapes, dtype, best["ours"])
    benchmark.extra_info["times_real_time"] = 30 / best["ours"]


@dtype
@pytest.mark.parametrize("size", [pytest.param("paper", marks=pytest.mark.slow), "tiny"])
def bench_other_encoders(benchmark, record, size, dtype):
    """The front blocks and transformers' encoders with as many parameters, at their default settings, on the same frames."""
    transformers = peer("transformers")
    from transformers.models.bert.modeling_bert import BertEncoder
    from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

    config = SIZES[size]
    same = {"hidden_size": config.width, "num_attention_heads": config.num_heads, "intermediate_size": config.ffn_width}
    conformer = transformers.Wav2Vec2ConformerConfig(
        **same, num_hidden_layers=BLOCKS[size] // 2, position_embeddings_type="rotary"
    )
    bert = transformers.BertConfig(**same, num_hidden_layers=BLOCKS[size], attn_implementation="sdpa")
    modules = {"ours": Stack(config, BLOCKS[size]), "conformer": Wav2Vec2ConformerEncoder(conformer), "bert": BertEncoder(bert)}
    x, rivals = torch.randn(1, FRAMES, config.width, dtype=dtype), {}
    for name, module in modules.items():
        module.eval().to(dtype)
        rivals[name] = functools.partial(module, x)
        benchmark.extra_info[f"{name}_parameters"] = number = sum(p.numel() for p in module.parameters())
        assert abs(number / benchmark.extra_info["ours_parameters"] - 1) < 0.15
    assert rivals["ours"]().shape == rivals["conformer"]().last_hidden_state.shape == rivals["bert"]().last_hidden_state.shape
    record(f"encoder, {size}, {dtype}", rivals, 0, flops(BLOCKS[size] * block_shapes(config)), dtype, 3)


@size
def bench_simvq(record, size):
    """The frozen quantizer on a window: the search and the gather."""
    dim = {"paper": 128, "tiny": 16}[size]
    codebook, z = Codebook(32_768, dim), torch.randn(FRAMES, dim)
    codebook.table.copy_(SimVQ(SimVQConfig(dim=dim)).codes())
    with use_backends("reference"):
        reference = codebook(z).indices
    assert torch.equal(codebook(z).indices, reference)
    rivals = {
        "ours": lambda: codebook(z),
        "cdist": lambda: F.embedding(torch.cdist(z, codebook.table).argmin(1), codebook.table),
    }
    record(f"quantizer, {size}", rivals, flops=2.0 * FRAMES * 32_768 * dim)


@size
def bench_dit_step(benchmark, record, size):
    """A step of the decoder on 30 s at 50 Hz; at paper size two of its 24 blocks, as all take twenty seconds."""
    sizes = {"paper": DiTConfig(depth=2), "tiny": DiTConfig(condition_dim=128, width=192, depth=6, num_heads=6)}
    config = sizes[size]
    dit = DiT(config).eval()
    z, condition = torch.randn(1, 2 * FRAMES, config.latent_dim), torch.randn(1, 2 * FRAMES, config.condition_dim)
    t, tracks = torch.tensor([0.5]), torch.tensor([0])
    for block in dit.blocks:  # adaLN-Zero starts every block as the identity, which would hide a wrong one
        nn.init.normal_(block.modulation.weight, std=0.02)
    nn.init.normal_(dit.leave.weight, std=0.02)

    def unfused() -> Tensor:
        with use_backends("sdpa"):
            return dit(z, t, condition, tracks)

    torch.testing.assert_close(dit(z, t, condition, tracks), unfused(), rtol=1e-3, atol=1e-4)
    block = TransformerConfig(config.width, config.num_heads, config.ffn_ratio * config.width)
    shapes = config.depth * block_shapes(block, 2 * FRAMES)
    best = record(
        f"DiT step, {size}", {"ours": lambda: dit(z, t, condition, tracks), "unfused": unfused}, 0, flops(shapes), limit=3
    )
    benchmark.extra_info |= shares(shapes, torch.float32, best["ours"])


def bench_bfloat16_codes(benchmark, record, tokenizer, real_song):
    """The tokenizer that ships, cast to bfloat16: how many codes of real music differ from float32's, and what that saves."""
    narrow = copy.deepcopy(tokenizer).bfloat16()
    assert narrow.fingerprint != tokenizer.fingerprint, "codes of another precision must not pass for these"
    codes = [one.encode(*real_song).tensor for one in (tokenizer, narrow)]
    rivals = {"ours": lambda: narrow.encode(*real_song), "float32": lambda: tokenizer.encode(*real_song)}
    record("tokenizer, tiny, bfloat16", rivals)
    benchmark.extra_info["miss_rate"] = (codes[0] != codes[1]).float().mean().item()
