"""What flows see of molecules: nothing is lost, the density is the right one, and files that do not fit are refused."""

import math

import numpy as np
import pytest
import torch

from flowmaps.data.conformations import Conformations, Framed, Turned, parts_of, trajectory, uniform_rotation
from identities.cases import seeded

FRAMES = (
    torch.randn(50, 5, 3, generator=seeded(), dtype=torch.float64) * 0.1 + torch.arange(5.0).double()[:, None] * 0.1
)


def apart(x):
    return torch.cdist(x.double(), x.double())


@pytest.mark.parametrize("coordinates", [Turned.of(FRAMES), Framed.of(FRAMES, [2, 0, 3])], ids=["turned", "framed"])
def test_a_molecule_comes_back_in_another_place(coordinates):
    data = Conformations(FRAMES, coordinates, size=150)
    y = data.batch(torch.arange(150)).x_1
    x = coordinates.frames(y)
    assert y.shape == (150, coordinates.dim) and torch.allclose(apart(x), apart(FRAMES).repeat(3, 1, 1), atol=1e-6)
    volume = torch.linalg.det(x[:, 1:4] - x[:, :1]), torch.linalg.det(FRAMES[:, 1:4] - FRAMES[:, :1])
    assert torch.allclose(volume[0], volume[1].repeat(3), atol=1e-6)  # no mirror
    assert torch.equal(y[70:80], data.batch(torch.arange(70, 80)).x_1) and len(data) == 150


def test_turned_states_are_turned_anew_and_have_a_centre_of_their_own():
    data = Conformations(FRAMES[:1], Turned.of(FRAMES), size=4000)
    y = data.batch(torch.arange(4000)).x_1.unflatten(1, (5, 3))
    centre = y.mean(1)
    assert torch.allclose(torch.cov(centre.T), torch.eye(3) / 5, atol=0.02) and float(centre.mean(0).abs().max()) < 0.03
    assert float((y - centre.unsqueeze(1)).mean(0).abs().max()) < 0.06  # every direction alike
    assert float(Turned.of(FRAMES).unit) > 0


def test_framed_states_are_white():
    coordinates = Framed.of(FRAMES, [2, 0, 3])
    y = Conformations(FRAMES, coordinates).batch(torch.arange(50)).x_1
    assert torch.allclose(y.mean(0), torch.zeros(9), atol=1e-5) and torch.allclose(
        torch.cov(y.T), torch.eye(9), atol=1e-4
    )


def test_rotations_are_uniform():
    R = uniform_rotation(torch.rand(20_000, 3, generator=seeded(), dtype=torch.float64))
    assert torch.allclose(R @ R.mT, torch.eye(3).double().expand_as(R), atol=1e-12)
    assert torch.allclose(torch.linalg.det(R), torch.ones(len(R)).double())
    assert float(R.mean(0).abs().max()) < 0.02 and torch.allclose(
        (R**2).mean(0), torch.full((3, 3), 1 / 3).double(), atol=0.01
    )
    trace = R.diagonal(dim1=1, dim2=2).sum(1)
    assert float((trace**2).mean()) == pytest.approx(1.0, abs=0.03)  # the character of SO(3) has norm 1


def test_the_factor_of_framed_coordinates_is_their_volume():
    r"""A harmonic molecule of three atoms, with ∫ e^{-u} r² b dr da db for a partition function.

    Mean energies by quadrature over q with ρ agree with those by sampling all nine Cartesian coordinates.
    """

    def u(q):  # springs of all three pairs
        r, a, b = q.unbind(-1)
        third, other = (a**2 + b**2).sqrt(), ((r - a) ** 2 + b**2).sqrt()
        return 8 * ((r - 1) ** 2 + (third - 1.2) ** 2 + (other - 0.9) ** 2)

    grid = torch.cartesian_prod(*(torch.linspace(low, high, 81, dtype=torch.float64) for low, high in
                                  ((0.01, 2.6), (-2.0, 2.6), (0.01, 2.6))))  # fmt: skip
    coordinates = Framed([0, 1, 2], torch.zeros(3), torch.eye(3))
    w = (coordinates.log_factor(grid) - u(grid)).exp()
    mean = float((w * u(grid)).sum() / w.sum())
    x = 1.1 * torch.randn(400_000, 2, 3, generator=seeded(1), dtype=torch.float64)  # the first atom stays at 0
    q = torch.stack([x[:, 0].norm(dim=1), (x[:, 0] * x[:, 1]).sum(1) / x[:, 0].norm(dim=1)], 1)
    q = torch.cat([q, (x[:, 1].square().sum(1) - q[:, 1] ** 2).clamp(min=0).sqrt()[:, None]], 1)
    weight = (x.square().sum((1, 2)) / (2 * 1.1**2) - u(q)).softmax(0)
    assert mean == pytest.approx(float((weight * u(q)).sum()), rel=0.02)
    assert coordinates.log_factor(torch.tensor([[1.0, 0.0, -1.0]])).item() == -math.inf


def test_parts_are_blocks_of_time():
    x = torch.arange(1000.0)[:, None, None].expand(1000, 1, 3)
    train, valid, test = parts_of(x)
    assert [len(part) for part in (train, valid, test)] == [800, 100, 100]
    assert (valid[:, 0, 0].diff() == 1).sum() == 95  # five stretches of twenty frames
    with pytest.raises(ValueError, match="there are 50 frames, expected at least 100; simulate longer"):
        parts_of(x[:50])


def test_trajectories_of_other_programs_are_read_and_checked(tmp_path):
    mdtraj = pytest.importorskip("mdtraj", reason="needs the extra physics")
    pytest.importorskip("openmm", reason="needs the extra physics")
    from flowmaps.data.potentials import ALANINE

    frame = mdtraj.load(str(ALANINE))
    moved = mdtraj.Trajectory(frame.xyz + np.arange(4).reshape(4, 1, 1), frame.topology)
    moved.save_dcd(str(tmp_path / "run.dcd"))
    found = trajectory(tmp_path / "run.dcd", str(ALANINE))
    assert np.allclose(found.x.numpy(), moved.xyz, atol=1e-5) and found.potential.atoms == 22
    moved.atom_slice(range(20)).save_dcd(str(tmp_path / "less.dcd"))
    moved.xyz[1] = np.nan
    moved.save_dcd(str(tmp_path / "nan.dcd"))
    for name, message in {"less": r"less.dcd does not fit .*alanine-dipeptide.pdb", "nan": "that are not finite",
                          "gone": "gone.dcd"}.items():  # fmt: skip
        with pytest.raises((ValueError, OSError), match=message):
            trajectory(tmp_path / f"{name}.dcd", str(ALANINE))
    with pytest.raises(ValueError, match="is a file of frames without a topology; add one"):
        trajectory(tmp_path / "run.dcd")
    with pytest.raises(ValueError, match="make it: flowmaps simulate alanine-dipeptide"):
        trajectory(tmp_path / "none")
