"""Matrix products keep the precision they promise, whatever the user's settings allow, and from any thread."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from hf_repgeo import measure
from hf_repgeo.errors import UnknownName
from hf_repgeo.measures.kernels import products
from hf_repgeo.measures.kernels.neighbors import nearest
from hf_repgeo.measures.kernels.products import bfloat16_is_fast, eigvalsh, full_precision, gram, times_transposed
from hf_repgeo.measures.kernels.switch import VARIABLE, family, kernels

CPU = torch.device("cpu")


@pytest.fixture
def setting():
    """PyTorch's own setting for float32 products on CPU, put back afterwards."""
    backend = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(backend, "fp32_precision"):
        pytest.skip("this PyTorch has one setting for all devices")
    before = backend.fp32_precision
    yield backend
    backend.fp32_precision = before


def factors():
    return torch.randn(2, 64, 300, generator=torch.Generator().manual_seed(0))


@pytest.mark.skipif(not bfloat16_is_fast(), reason="no fast products of bfloat16 here")
def test_rough_products_round_their_factors_and_no_others_do():
    a, b = factors()
    exact, rounded = (x.double() @ y.double().T for x, y in ((a, b), (a.bfloat16(), b.bfloat16())))
    rough = times_transposed(a, b, rough=True).double()
    assert float((rough - rounded).abs().max()) < 1e-4 < 1e-2 < float((rough - exact).abs().max())
    assert float((times_transposed(a, b).double() - exact).abs().max()) < 1e-4


def test_products_are_float32_whatever_the_user_allows(setting):
    a, b = factors()
    setting.fp32_precision = "bf16"
    assert float((times_transposed(a, b).double() - a.double() @ b.double().T).abs().max()) < 1e-4
    assert setting.fp32_precision == "bf16"


def test_a_onednn_that_rounds_to_bfloat16_is_not_used(monkeypatch):
    monkeypatch.setattr(products, "_onednn", lambda a, b: a.bfloat16().float() @ b.bfloat16().float().T)
    assert not products._onednn_works.__wrapped__()


def test_precision_survives_threads_that_leave_in_any_order(setting):
    """The first to enter leaves first. If each put back what it found, the second would leave "ieee" behind."""
    setting.fp32_precision = "bf16"
    entered, leave, inside = threading.Event(), threading.Event(), []

    def second():
        with full_precision(CPU):
            entered.set()
            leave.wait(10)
            inside.append(setting.fp32_precision)

    thread = threading.Thread(target=second)
    with full_precision(CPU):
        thread.start()
        assert entered.wait(10), "threads that want the same precision share it"
    leave.set()
    thread.join()
    assert inside == ["ieee"] and setting.fp32_precision == "bf16"


def test_a_thread_that_wants_another_precision_waits_its_turn(setting):
    precision, order = products._Setting.of(setting), []

    def rough():
        with precision.held(products.ROUGH):
            order.append(setting.fp32_precision)

    thread = threading.Thread(target=rough)
    with precision.held(products.FULL):
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and setting.fp32_precision == products.FULL
        order.append("left")
    thread.join(10)
    assert order == ["left", products.ROUGH]


def test_an_error_inside_puts_the_precision_back(setting):
    setting.fp32_precision = "bf16"
    with pytest.raises(ZeroDivisionError), full_precision(CPU):
        raise ZeroDivisionError
    assert setting.fp32_precision == "bf16"


@pytest.mark.parametrize("shape", [(50, 1), (300, 500), (7, 192), (40, 193)])
def test_a_gram_matrix_is_symmetric_and_the_product(shape, generator):
    rows = torch.randn(*shape, dtype=torch.float64, generator=generator)
    assert torch.equal(gram(rows), gram(rows).T)
    assert torch.allclose(gram(rows), rows.T @ rows, rtol=1e-12, atol=1e-12)
    assert torch.allclose(gram(rows.T), rows @ rows.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["fast", "reference"])
def test_eigenvalues_of_a_rotated_diagonal_are_its_entries(family, generator):
    rotation = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64, generator=generator)).Q
    entries = torch.logspace(-8, 3, 60, dtype=torch.float64)
    with kernels(family):
        found = eigvalsh(rotation * entries @ rotation.T)
    assert torch.allclose(found, entries, rtol=0, atol=1e-11)


# --- the switch ------------------------------------------------------------------------------------------------------


def test_the_reference_calls_no_private_operation(monkeypatch):
    def refuse(*factors):
        raise AssertionError("a private operation of PyTorch")

    monkeypatch.setattr(products, "_onednn", refuse)
    monkeypatch.setattr(products, "_onednn_works", lambda: True)
    a, b = factors()
    with kernels("reference"):
        assert torch.equal(times_transposed(a, b), a @ b.T)
        nearest(a)
    with pytest.raises(AssertionError, match="private"):
        times_transposed(a, b)


def test_kernels_hold_inside_the_block_and_in_its_thread_only():
    seen = []
    with kernels("reference"):
        thread = threading.Thread(target=lambda: seen.append(family()))
        thread.start()
        thread.join()
        seen.append(family())
    assert seen == [os.environ.get(VARIABLE) or "fast", "reference"]


def test_the_environment_chooses_the_kernels_and_a_wrong_name_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    assert family() == "reference"
    monkeypatch.setenv(VARIABLE, "quick")
    with pytest.raises(UnknownName, match="fast, reference"):
        family()


def test_a_process_whose_environment_says_so_measures_on_the_reference_kernels():
    code = (
        "import torch; from hf_repgeo.measures import PointCloud, intrinsic_dimension, patchiness;"
        "from hf_repgeo.measures.kernels import products;"
        "products._onednn = None;"  # calling it would fail
        "cloud = PointCloud(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)));"
        "print(intrinsic_dimension(cloud).value, patchiness(cloud, bits=4).value)"
    )
    environment = os.environ | {VARIABLE: "reference"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert [float(value) > 0 for value in done.stdout.split()] == [True, True]


def test_measures_agree_on_both_kernels(generator):
    """To rounding; patchiness to one row in a thousand, since a row between two cells may go to either."""
    rows = torch.randn(700, 64, generator=generator) * torch.arange(1, 65) ** -0.5 + 3
    values = {}
    for name in ("fast", "reference"):
        with kernels(name):
            report = measure(rows, "all", bits=4)
            values[name] = {(row["measure"], row["convention"]): row["value"] for row in report.rows}
    assert values["fast"].keys() == values["reference"].keys()
    for key, value in values["fast"].items():
        other = values["reference"][key]
        assert value is other if None in (value, other) else value == pytest.approx(other, rel=1e-3, abs=1e-6), key


def test_numpy_takes_as_many_threads_as_pytorch_and_gets_its_own_number_back(monkeypatch):
    blas, seen = products._numpy_blas(), []
    before = blas._read()
    multiply = np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda matrix: seen.append(blas._read()) or multiply(matrix))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    eigvalsh(torch.eye(4, dtype=torch.float64))
    assert seen == [3] and blas._read() == before


def test_without_a_library_whose_threads_can_be_set_products_still_work(monkeypatch):
    monkeypatch.setattr(products, "_numpy_blas", lambda: None)
    rows = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    assert torch.equal(gram(rows), rows.T @ rows)
