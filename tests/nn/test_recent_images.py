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


def replica_of(module: torch.nn.Module) -> torch.nn.Module:
    """What DataParallel computes with: a shallow copy of every module, which is thrown away after each pass."""
    copy = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        copy._modules[name] = child and replica_of(child)
    copy._parameters = dict(module._parameters)
    return copy


def test_replicas_of_data_parallel_fill_it_as_one_device_does(make):
    alone, parallel = make("CIM", cim_queue=6), make("CIM", cim_queue=6)
    for _ in range(3):
        batch = Batch(torch.rand(4, 3, 16, 16), torch.arange(4))
        alone(batch)
        alone.after_step()
        # Without device numbers to be ordered by, the last part comes first, as the queue begins with the newest.
        for half in (slice(2, 4), slice(0, 2)):
            replica_of(parallel)(Batch(batch.x[half], batch.y[half]))
        parallel.after_step()
    assert alone.morphing.recent is not None and parallel.morphing.recent is not None
    for name, value in alone.morphing.recent.get_extra_state().items():
        assert torch.equal(parallel.morphing.recent.get_extra_state()[name], value), name
    # Each replica compares with the whole queue.
    terms = replica_of(parallel)(Batch(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))).terms
    assert terms["positives"] == 1
