"""Muon against torch's own, and against what its iteration is for."""

from __future__ import annotations

import torch

from steerkit.demo.muon import COEFFICIENTS, Muon, orthogonalize


def test_singular_values_become_about_one_and_their_vectors_stay() -> None:
    matrices = torch.randn(3, 12, 40, generator=torch.Generator().manual_seed(0))
    for given in (matrices, matrices.mT):
        found = orthogonalize(given)
        values = torch.linalg.svdvals(found)
        assert (values > 0.6).all()
        assert (values < 1.3).all()
        u, _, vh = torch.linalg.svd(given, full_matrices=False)
        turned = u.mT @ found @ vh.mT
        torch.testing.assert_close(turned, torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1)), atol=1e-4, rtol=0)


def test_gram_matrices_alone_lead_where_the_matrices_themselves_do() -> None:
    a, b, c = COEFFICIENTS
    matrices = torch.randn(3, 24, 96, generator=torch.Generator().manual_seed(2)) * torch.logspace(0, -3, 96)
    x = matrices.double() / torch.linalg.matrix_norm(matrices.double(), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    for given, wanted in ((matrices, x), (matrices.mT, x.mT)):
        torch.testing.assert_close(orthogonalize(given).double(), wanted, atol=1e-5, rtol=0)


def test_steps_are_those_of_torch_up_to_its_bfloat16() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(16, 16), (16, 48), (48, 16), (16, 16)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(one.clone()) for one in start] for _ in range(2))
    settings = {"lr": 0.01, "weight_decay": 0.5}
    optimizers = (Muon(ours, **settings), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings))
    for _ in range(4):
        for one, two in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            two.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for before, one, two in zip(start, ours, theirs, strict=True):
        assert (one - two).norm() < 0.02 * (two - before).norm()
