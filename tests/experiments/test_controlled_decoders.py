"""The plain vector quantizer against scipy's k-means, and the small decoder on codes that hold everything or nothing."""

from __future__ import annotations

import pytest
import torch
from scipy.cluster.vq import kmeans2

from duotok.experiments import plain_vq
from duotok.experiments.controlled_decoders import decoder_errors, train_decoder


def blobs(seed: int, count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Mel frames (4 * count, 3) whose stacks lie around 8 far places in two dimensions, and which place each is of."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(8, (count,), generator=generator)
    angle = place * torch.pi / 4
    flat = torch.stack((10 * angle.cos(), 10 * angle.sin()), dim=1) + 0.1 * torch.randn(count, 2, generator=generator)
    basis = torch.linalg.qr(torch.randn(12, 2, generator=torch.Generator().manual_seed(9)))[0]
    return (flat @ basis.T + 1).view(4 * count, 3), place


def test_lloyds_rounds_are_those_of_scipy():
    mel, _ = blobs(0)
    vq = plain_vq.fit(mel, 8, 2, seed=3)
    z = vq.project(mel).double()
    chosen = torch.randperm(len(z), generator=torch.Generator().manual_seed(3))[:8]
    expected, labels = kmeans2(z.numpy(), z[chosen].numpy(), iter=25, minit="matrix", missing="warn")
    torch.testing.assert_close(vq.vectors.double(), torch.from_numpy(expected), atol=1e-4, rtol=1e-4)
    assert vq.encode(mel).tolist() == labels.tolist()


def test_two_components_hold_what_lies_in_two_dimensions():
    mel, _ = blobs(1)
    vq = plain_vq.fit(mel, 64, 2, seed=0)
    rebuilt = vq.vectors[vq.encode(mel)] @ vq.components.T + vq.mean
    assert (rebuilt - plain_vq.stacked(mel)).abs().mean() < 0.1 < plain_vq.stacked(mel).std()
    with pytest.raises(ValueError, match="at least 1000 frames, one a code; got 400"):
        plain_vq.fit(mel, 1000, 2, seed=0)


def test_a_decoder_recovers_what_its_vectors_hold_and_no_more():
    generator = torch.Generator().manual_seed(0)
    full = [torch.randn(120, 6, generator=generator) for _ in range(3)]
    songs = [(x, x.repeat_interleave(4, dim=0)) for x in full]
    half = [(x * torch.tensor([1.0, 1, 1, 0, 0, 0]), y) for x, y in songs]
    errors = {name: decoder_errors(train_decoder(s[:2], 0, 60), s[2:]) for name, s in (("full", songs), ("half", half))}
    assert errors["full"].shape == (6,)
    assert errors["half"][:3].max() < 0.6 < errors["half"][3:].min() and errors["full"].max() < 0.6
    again = decoder_errors(train_decoder(songs[:2], 0, 60), songs[2:])
    assert torch.equal(errors["full"], again), "seed and data decide all"


def test_songs_shorter_than_a_crop_are_refused():
    with pytest.raises(ValueError, match="training song of 100 frames; got none"):
        train_decoder([(torch.zeros(99, 2), torch.zeros(396, 2))], 0, 1)
