from __future__ import annotations

import torch

from cim_dg.algorithms import Batch
from cim_dg.nn.recent_images import RecentImages


def test_newest_first_and_never_more_than_its_size():
    recent = RecentImages(3)
    for value in range(4):
        recent.push(torch.full((2, 1, 1, 1), value / 255), torch.tensor([2 * value, 2 * value + 1]), None)
    pixels, y, domain = recent.extend(torch.ones(1, 1, 1, 1), torch.tensor([9]), None)
    assert y.tolist() == [9, 6, 7, 4]
    torch.testing.assert_close(pixels.flatten() * 255, torch.tensor([255.0, 3, 3, 2]))
    assert domain is None


def test_its_state_travels_in_a_checkpoint(tmp_path):
    recent, other = RecentImages(4), RecentImages(4)
    recent.push(torch.rand(3, 2, 4, 4), torch.arange(3), torch.tensor([0, 1, 1]))
    torch.save(recent.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    batch = torch.rand(1, 2, 4, 4), torch.tensor([5]), torch.tensor([2])
    for mine, theirs in zip(recent.extend(*batch), other.extend(*batch), strict=True):
        assert isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor)
        assert torch.equal(mine, theirs)


def test_cim_finds_positives_in_it_that_the_batch_lacks(make):
    method = make("CIM", cim_queue=8)
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)
    assert method(Batch(x, y)).terms["positives"] == 0
    method.after_step()
    assert method(Batch(x, y)).terms["positives"] == 1
    assert method.eval()(Batch(x, y)).terms["positives"] == 0  # evaluation sees the batch alone


def test_only_optimising_steps_move_it(make):
    method = make("CIM_VIB", cim_queue=8)
    batch = Batch(torch.rand(4, 3, 16, 16), torch.arange(4))
    method(batch)
    method.eval()(batch)
    assert method.train()(batch).terms["positives"] == 0
