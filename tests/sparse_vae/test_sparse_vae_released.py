"""The released training step restated, as a slow twin: same loss from the same weights."""

import pytest
import torch
from released_twin import made_batch, restated

from hf_repgeo.sparse_vae.configuration_sparse_vae import SparseVAEConfig
from hf_repgeo.sparse_vae.modeling_sparse_vae import SparseVAEForSentenceEmbedding


def test_the_restated_step_has_our_loss_to_1e_5():
    torch.default_generator.manual_seed(0)
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig.preset("released")).train()
    (step, _), batch = restated(model), made_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for i in range(3):
        torch.default_generator.manual_seed(i)
        ours = model(batch[0], candidates=batch[1], labels=batch[2]).loss
        torch.default_generator.manual_seed(i)
        assert step(*batch).item() == pytest.approx(ours.item(), abs=1e-5)
        optimizer.zero_grad()
        ours.backward()
        optimizer.step()
