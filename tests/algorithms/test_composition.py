"""Methods put together from parts: CIM's morph before other methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cim_dg.algorithms import CIM, CIM_VIB, REGISTRY, SCL, VIB, Algorithm, DCoDR, GroupDRO, Morphing, register

PAGE = Path(__file__).parents[2] / "docs" / "method.md"


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Restores the registry afterwards."""
    registered = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(registered)


@pytest.fixture
def compose(tmp_path: Path, own_registry: None) -> Callable[[type[Algorithm]], str]:
    """Registers CIM before a method and returns the name."""

    def before(method: type[Algorithm]) -> str:
        name = f"Test_CIM_{method.name}"
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"include: [CIM, {method.name}]\n")
        register(name, hparams=file)(type(name, (Morphing, method), {}))
        return name

    return before


def test_cim_and_cim_vib_are_the_parts_alone() -> None:
    """Neither class defines anything but its objective's description."""
    for method, parts in ((CIM, (Morphing, REGISTRY["ERM"])), (CIM_VIB, (Morphing, VIB))):
        assert method.__bases__ == parts
        assert not [name for name, value in vars(method).items() if callable(value)]


@pytest.mark.parametrize("head", [SCL, VIB, GroupDRO])
def test_loss_is_the_sum_of_both_parts_and_the_terms_of_both_are_logged(make, batch, compose, head) -> None:
    method = make(compose(head), cim_lambda=3.0)
    torch.manual_seed(1)
    terms = method(batch).terms
    torch.manual_seed(1)
    morph = method.morph(batch.x)
    own = method.objective(method.featurizer(morph.inputs), batch).terms
    contrast = method.morphing.contrast(morph, batch)
    torch.testing.assert_close(terms["loss"], own["loss"] + 3.0 * contrast["contrast"])
    assert {f"head_{name}" if name in contrast else name for name in own} <= terms.keys()
    assert contrast.keys() <= terms.keys()
    if head is SCL:
        torch.testing.assert_close(terms["head_contrast"], own["contrast"])


def test_the_example_of_the_page(make, batch, tmp_path, own_registry) -> None:
    """docs/method.md: CIM before SCL."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (entries,) = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "CIM_SCL.yaml").write_text(entries)
    exec(code, {"__file__": str(tmp_path / "cim_scl.py"), "__name__": "cim_scl"})
    terms = make("CIM_SCL", cim_lambda=3.0, scl_weight=0.5)(batch).terms
    expected = terms["supervised"] + 0.5 * terms["head_contrast"] + 3.0 * terms["contrast"]
    torch.testing.assert_close(terms["loss"], expected)


def test_the_head_sees_the_morph(make, batch, compose) -> None:
    method = make(compose(SCL)).eval()
    expected = method.classifier(method.featurizer(method.morph(batch.x).inputs))
    torch.testing.assert_close(method.predict(batch.x), expected)
    torch.testing.assert_close(method(batch).logits, expected)


def test_both_parts_take_their_steps(make, batch, compose) -> None:
    method = make(compose(VIB), cim_queue=8, vib_warmup=4)
    for _ in range(3):
        method(batch)
        method.after_step()
    assert method.classifier.step == 3
    assert len(method.morphing.recent.get_extra_state()["y"]) == 8


def test_a_method_without_an_objective_on_features_says_so(make, batch, compose) -> None:
    with pytest.raises(NotImplementedError, match=r"Test_CIM_DCoDR has no objective\(features, batch\)"):
        make(compose(DCoDR))(batch)


@pytest.mark.parametrize(
    ("name", "first", "last", "buffers"),
    [
        ("CIM", "classifier.weight", "morphing.network.head.bias", []),
        ("CIM_VIB", "classifier.bottleneck.encode.weight", "morphing.network.head.bias", ["classifier.step"]),
        ("VIB", "classifier.bottleneck.encode.weight", "classifier.classifier.bias", ["classifier.step"]),
        ("SCL", "classifier.weight", "projection.layers.2.bias", []),
        ("GroupDRO", "classifier.weight", "classifier.bias", ["q"]),
    ],
)
def test_names_and_order_of_parameters_are_those_of_saved_checkpoints(make, name, first, last, buffers) -> None:
    """The order matters too: an optimiser's state refers to parameters by their places."""
    method = make(name)
    names = [name for name, _ in method.named_parameters() if not name.startswith("featurizer.")]
    assert (names[0], names[-1]) == (first, last)
    assert [key for key in method.state_dict() if key in ("q", "classifier.step")] == buffers
