"""What is read off soft assignments without holding them: against soft assignments that are held."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_samples import sample

from sccagn_scale.ops import student_t_assign, student_t_column_sums, student_t_label, student_t_stream


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 9), st.sampled_from([0.5, 1.0, 24.0]))
def test_labels_are_the_argmax_of_q(n_obs: int, n_clusters: int, d: int, nu: float) -> None:
    z, centroids = sample(n_obs, n_clusters, d, seed=n_obs)
    q = student_t_assign(z, centroids, nu)
    labels, confidence = student_t_label(z, centroids, nu)
    assert labels.dtype == torch.int64
    torch.testing.assert_close(confidence, q.max(1).values.detach())
    torch.testing.assert_close(q.gather(1, labels[:, None])[:, 0].detach(), confidence)
    assert not confidence.requires_grad


@given(st.integers(0, 300), st.integers(1, 40), st.sampled_from([0.5, 24.0]), st.sampled_from([0.3, 0.5, 1.0]))
def test_sums_are_those_of_q_and_add_up_over_batches(n_obs: int, n_clusters: int, nu: float, tau: float) -> None:
    z, centroids = sample(n_obs, n_clusters, seed=n_obs)
    sums = student_t_column_sums(z, centroids, nu, tau=tau)
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, student_t_assign(z, centroids, nu).pow(1 / tau).sum(0).detach())
    cut = n_obs // 3
    parts = (student_t_column_sums(part, centroids, nu, tau=tau) for part in (z[:cut], z[cut:]))
    torch.testing.assert_close(sum(parts), sums)


def test_sums_of_float32_are_near_those_of_float64() -> None:
    z, centroids = sample(20_000, 9, 8)
    exact = student_t_column_sums(z, centroids, 8.0)
    torch.testing.assert_close(student_t_column_sums(z.float(), centroids.float(), 8.0), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.01, 0.1])
def test_powers_that_leave_float32_are_summed(tau: float) -> None:
    """A cluster that no cell is near: its largest q is 0.06, and 0.06^100 is 1e-122."""
    z, centroids = (t.detach() for t in sample(500, 5, 3))
    centroids[4] = 5.0
    exact = student_t_column_sums(z, centroids, 3.0, tau=tau)
    assert 0 < exact[4] < 1e-9
    found = student_t_column_sums(z.float(), centroids.float(), 3.0, tau=tau)
    torch.testing.assert_close(found.log(), exact.log(), rtol=1e-4, atol=1e-3)


def test_equals_go_to_the_first() -> None:
    z, centroids = torch.zeros(37, 2), torch.tensor([[1.0, 0], [0, 1], [0, -1], [9, 9]])
    labels, confidence = student_t_label(z, centroids)
    assert not labels.any()
    torch.testing.assert_close(confidence, student_t_assign(z, centroids)[:, 0])


def test_blocks_of_the_reference_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z, centroids = (t.detach() for t in sample(53, 5))
    sums = student_t_stream.student_t_column_sums_reference(z, centroids, 2.0, 0.5)
    labels, confidence = student_t_stream.student_t_label_reference(z, centroids, 2.0)
    monkeypatch.setattr(student_t_stream, "BLOCK_SIZE", 7)
    torch.testing.assert_close(student_t_stream.student_t_column_sums_reference(z, centroids, 2.0, 0.5), sums)
    again = student_t_stream.student_t_label_reference(z, centroids, 2.0)
    assert torch.equal(again[0], labels)
    torch.testing.assert_close(again[1], confidence)


def test_opcheck() -> None:
    z, centroids = (t.detach() for t in sample(4, 3, 2))
    for operator, arguments in (
        (torch.ops.sccagn.student_t_column_sums, (z, centroids, 1.0, 0.5)),
        (torch.ops.sccagn.student_t_label, (z, centroids, 1.0)),
    ):
        assert set(torch.library.opcheck(operator.default, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_centroid_that_is_no_number_spoils_every_sum(place: int, dtype: torch.dtype) -> None:
    """Wherever it stands: so divergence is seen."""
    z, centroids = (t.detach().to(dtype) for t in sample(40, 5, 3))
    centroids[place, 1] = float("nan")
    assert student_t_column_sums(z, centroids, tau=0.5).isnan().all()


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_positive(tau: float) -> None:
    with pytest.raises(ValueError, match="`tau` must be above 0"):
        student_t_column_sums(*sample(), tau=tau)
