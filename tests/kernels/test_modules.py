"""Drop-in modules side by side with what they replace: state_dicts, results, losses, gradients."""

from __future__ import annotations

import pytest
import torch
import vector_quantize_pytorch as vqp
from duotok.kernels import modules, use_backends
from einops import rearrange
from torch import nn


def distances(x: torch.Tensor, codes: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return (x.double().reshape(-1, x.shape[-1]) - codes.double()[indices.flatten()]).square().sum(-1)


@pytest.mark.parametrize("rotation_trick", [False, True])
@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize("commitment_weight", [1.0, 3.0])
def test_simvq_equals_vector_quantize_pytorch(rotation_trick, channel_first, commitment_weight):
    torch.manual_seed(0)
    options = {"channel_first": channel_first, "rotation_trick": rotation_trick, "commitment_weight": commitment_weight}
    theirs, ours = vqp.SimVQ(24, 500, **options), modules.SimVQ(24, 500, **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    shape = (3, 24, 5, 7) if channel_first else (3, 5, 7, 24)
    x = torch.randn(shape)
    results = []
    for module in (theirs, ours):
        z = x.clone().requires_grad_()
        quantized, indices, loss = module(z)
        (loss + (quantized * torch.linspace(-1, 1, x.numel()).view(shape)).sum()).backward()
        results.append((quantized, indices, loss, z.grad, module.code_transform.weight.grad))
    wide = x.movedim(1, -1) if channel_first else x
    exact = [distances(wide, ours.codebook, r[1]) for r in results]
    assert (exact[1] <= exact[0] + 1e-12).all(), "where indices differ, ours is the nearer code"
    assert torch.equal(results[0][1], results[1][1])
    for mine, original in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, original, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.indices_to_codes(results[1][1]), theirs.indices_to_codes(results[0][1]))


def test_simvq_takes_another_table_width_and_a_linear_transform():
    torch.manual_seed(1)
    transform = nn.Linear(6, 8)
    ours = modules.SimVQ(8, 50, codebook_transform=transform, frozen_codebook_dim=6, rotation_trick=False)
    theirs = vqp.SimVQ(8, 50, codebook_transform=transform, frozen_codebook_dim=6, rotation_trick=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 9, 8)
    for mine, original in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, original, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected codebook_transform to be a torch.nn.Linear; got Sequential"):
        modules.SimVQ(8, 50, codebook_transform=nn.Sequential())


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("make", [lambda: modules.SimVQ(16, 500, channel_first=True), lambda: modules.SimVQ1D(500, 16)])
def test_autocast_changes_neither_codes_nor_losses(make, backend):
    torch.manual_seed(6)
    module, x = make(), torch.randn(2, 16, 50)

    def results(narrow: bool) -> tuple[torch.Tensor, ...]:
        z = x.clone().requires_grad_()
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            out = module(z)
        quantized, indices, loss = out if isinstance(module, modules.SimVQ) else (*out[0][::2], out[1].commitment)
        (loss + quantized.square().sum()).backward()
        return quantized, indices, loss, z.grad, *(p.grad for p in module.parameters() if p.requires_grad)

    with use_backends(backend):
        for narrow, wide in zip(results(True), results(False), strict=True):
            assert torch.equal(narrow, wide)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("norm", [False, True])
def test_random_projection_quantizer_equals_vector_quantize_pytorch(heads, norm):
    torch.manual_seed(2)
    options = {"dim": 32, "codebook_size": 200, "codebook_dim": 8, "num_codebooks": heads, "norm": norm}
    theirs, ours = vqp.RandomProjectionQuantizer(**options), modules.RandomProjectionQuantizer(**options)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 50, 32)
    assert torch.equal(ours(x), theirs(x))
    torch.testing.assert_close(ours(x, indices=ours(x)), theirs(x, indices=theirs(x)))


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("norm", [False, True])
def test_silent_frames_have_the_original_s_label(heads, norm):
    torch.manual_seed(5)
    options = {"dim": 32, "codebook_size": 200, "codebook_dim": 8, "num_codebooks": heads, "norm": norm}
    theirs, ours = vqp.RandomProjectionQuantizer(**options), modules.RandomProjectionQuantizer(**options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 20, 32)
    x[1, 5:9] = 0
    assert torch.equal(ours(x), theirs(x))


class AuthorsSimVQ1D(nn.Module):
    """The published definition (arXiv 2411.02038) for sequences, written out plainly."""

    def __init__(self, n_e, e_dim, beta, legacy):
        super().__init__()
        self.embedding, self.embedding_proj = nn.Embedding(n_e, e_dim), nn.Linear(e_dim, e_dim)
        self.beta, self.legacy = beta, legacy

    def forward(self, z):
        z = rearrange(z, "b c t -> b t c")
        codes = self.embedding_proj(self.embedding.weight.detach())
        indices = torch.cdist(z.reshape(-1, z.shape[-1]), codes).argmin(1)
        q = codes[indices].view(z.shape)
        pull_z, pull_q = (q.detach() - z).square().mean(), (q - z.detach()).square().mean()
        loss = pull_z + self.beta * pull_q if self.legacy else self.beta * pull_z + pull_q
        return rearrange(z + (q - z).detach(), "b t c -> b c t"), indices, loss


@pytest.mark.parametrize("legacy", [False, True])
def test_simvq1d_is_the_authors_definition(legacy):
    torch.manual_seed(3)
    ours, theirs = modules.SimVQ1D(300, 16, legacy=legacy), AuthorsSimVQ1D(300, 16, 0.25, legacy)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 16, 21)
    results = []
    for module in (ours, theirs):
        z = x.clone().requires_grad_()
        out = module(z)
        quantized, indices, loss = (out[0][0], out[0][2], out[1].commitment) if module is ours else out
        (loss + (quantized * torch.linspace(-1, 1, x.numel()).view(x.shape)).sum()).backward()
        results.append((quantized, indices, loss, z.grad, module.embedding_proj.weight.grad, module.embedding_proj.bias.grad))
    for mine, original in zip(*results, strict=True):
        torch.testing.assert_close(mine, original, rtol=1e-4, atol=1e-5)
    assert not ours.embedding.weight.requires_grad
    assert modules.SimVQ1D(300, 16, sane_index_shape=True)(x)[0][2].shape == (2, 21)
    with pytest.raises(ValueError, match="expected remap None"):
        modules.SimVQ1D(300, 16, remap="codes.npy")
    for wrong in (x.transpose(1, 2), x[0], torch.randn(2, 21, 16)):
        with pytest.raises(ValueError, match=r"expected z \(B, 16, T\); got \(.*\); bring channels second"):
            ours(wrong)
    with pytest.raises(ValueError, match=r"expected temp None or 1, .*; got 0.5, False and False; leave them out"):
        ours(x, temp=0.5)


def test_gaussian_replacement_follows_manual_seed_and_training_mode():
    module, x = modules.GaussianReplacement(0.5, 2.0), torch.zeros(400, 8)
    draws = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        draws.append(module(x))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert 0.3 < (draws[0] != 0).all(1).float().mean() < 0.7
    assert module.eval()(x) is x


def test_attention_equals_multihead_attention_with_a_padding_mask():
    torch.manual_seed(4)
    theirs = nn.MultiheadAttention(24, 4, batch_first=True).eval()
    ours = modules.Attention(24, 4)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x, lengths = torch.randn(3, 9, 24), torch.tensor([9, 5, 1])
    padding = torch.arange(9) >= lengths[:, None]
    expected = theirs(x, x, x, key_padding_mask=padding, need_weights=False)[0]
    got = ours(x, lengths)
    torch.testing.assert_close(got[~padding], expected[~padding], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], rtol=1e-4, atol=1e-5)


def test_attention_starts_like_the_original_and_takes_no_dropout():
    ours, theirs = modules.Attention(24, 4), nn.MultiheadAttention(24, 4, batch_first=True)
    for name, parameter in theirs.named_parameters():
        mine = ours.get_parameter(name)
        torch.testing.assert_close(mine.std(), parameter.std(), rtol=0.2, atol=0)
        assert mine.any() == parameter.any(), f"{name} starts at zero in both, or in none"
    with pytest.raises(TypeError, match="positional"):
        modules.Attention(24, 4, 0.1)
    with pytest.raises(ValueError, match="expected num_heads to divide embed_dim; got 4 and 25; change one of them"):
        modules.Attention(25, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_losses_have_the_module_s_dtype(dtype):
    torch.manual_seed(7)
    x = torch.randn(2, 16, 9, dtype=dtype)
    theirs, ours = (library.SimVQ(16, 50, channel_first=True).to(dtype) for library in (vqp, modules))
    assert ours(x)[2].dtype == theirs(x)[2].dtype == dtype
    assert modules.SimVQ1D(50, 16).to(dtype)(x)[1].commitment.dtype == dtype


def test_simvq1d_looks_up_what_it_quantizes_to():
    torch.manual_seed(8)
    module, x = modules.SimVQ1D(50, 16, sane_index_shape=True), torch.randn(2, 16, 9)
    quantized, _, indices = module(x)[0]
    torch.testing.assert_close(module.get_codebook_entry(indices), quantized.transpose(1, 2))
    torch.testing.assert_close(module.get_codebook_entry(indices.flatten(), (2, 9, 16)), quantized)


def test_options_of_the_original_s_vector_quantizer_are_refused():
    with pytest.raises(ValueError, match=r"expected dim, .* and norm; got kmeans_init, decay; leave it out, or use"):
        modules.RandomProjectionQuantizer(dim=32, codebook_size=20, codebook_dim=8, kmeans_init=True, decay=0.9)
